from __future__ import annotations

import torch

from benchmarks.methods import network_dissection


def test_thresholds_leave_a_share_of_the_activations():
    units = torch.rand(10, 3, 20, 20)
    thresholds = network_dissection.unit_thresholds(units, 0.1)
    shares = (units > thresholds[:, None, None]).double().mean((0, 2, 3))
    torch.testing.assert_close(shares, torch.full((3,), 0.1).double(), atol=1e-3, rtol=0)
    assert (network_dissection.unit_thresholds(units - 1, 0.1) == 0).all()


def test_a_mixture_finds_the_unit_that_is_the_part():
    generator = torch.Generator().manual_seed(0)
    parts = torch.rand(2000, 2, generator=generator) < 0.05
    noise = torch.rand(2000, 3, generator=generator) < 0.3
    masks = torch.cat([noise, parts], 1).float()
    weights = network_dissection.learn_mixtures(masks, parts)
    assert weights.argmax(1).tolist() == [3, 4]
    assert ((masks @ weights.T > 0) == parts).double().mean() > 0.99
