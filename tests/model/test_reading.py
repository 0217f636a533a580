"""``read``: one pass, and a head that is found once and verified on every one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from nets import LAYERS, make_net
from torch import nn

from captum_kmex.exceptions import HeadNotFoundError
from captum_kmex.model.head import HeadSite
from captum_kmex.model.reading import Source, read


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def test_first_reading_finds_the_head_and_the_next_one_believes_it(net, x):
    first = read(Source(net), (x,), LAYERS)
    assert isinstance(first.site, HeadSite)
    assert first.layers == tuple(LAYERS)
    torch.testing.assert_close(first.linear_head.logits(first.feature_map), net(x))
    again = read(Source(net), (x,), LAYERS, site=first.site)
    assert again.site is first.site
    assert torch.equal(again.feature_map, first.feature_map)


def test_a_head_that_no_longer_fits_is_searched_anew(net, x):
    site = read(Source(net), (x,), LAYERS).site
    stale = replace(site, rectified=True)  # gives other logits
    assert read(Source(net), (x,), LAYERS, site=stale).site == site


def test_without_need_of_a_head_none_is_looked_for(net, x):
    found = read(Source(net), (x,), LAYERS, needs_head=False)
    assert found.site is None
    assert not found.refusal
    for missing in ("linear_head", "feature_map"):
        with pytest.raises(HeadNotFoundError):
            getattr(found, missing)


@pytest.mark.parametrize("keeps", [False, True])
def test_a_refusal_is_believed_only_if_asked_for(net, x, keeps):
    found = read(Source(net), (x,), LAYERS, site="nobody found one", keeps_refusal=keeps)
    assert (found.head is None) == keeps
    assert found.refusal == ("nobody found one" if keeps else "")


def test_the_reason_why_there_is_no_head_is_kept(x):
    model = nn.Sequential(make_net(), nn.Softmax(1)).eval()
    found = read(Source(model), (x,), ["0.stage3"])
    assert found.head is None
    assert found.site == found.refusal
    assert "softmax" in found.refusal
