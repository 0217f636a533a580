"""Small pictures: what is known of them."""

from __future__ import annotations

import torch
from torch.utils.data import TensorDataset

from benchmarks.tasks.data.small_pictures import SmallData, annotate_ink, places


def test_ink_is_what_is_brighter_than_a_tenth_of_white() -> None:
    mean, std = 0.3, 0.2
    pictures = torch.zeros(5, 1, 4, 4)
    pictures[1, 0, 2, 3], pictures[4, 0, 0, 1], pictures[4, 0, 1, 1] = 1.0, 0.11, 0.09
    labels = torch.arange(5)
    standard = TensorDataset((pictures - mean) / std, labels)
    none = TensorDataset(pictures[:0], labels[:0])
    found = annotate_ink(SmallData(none, none, standard), mean, std, "test", torch.tensor([4, 1]))
    assert [tuple(place) for place in found["masks"].nonzero().tolist()] == [(0, 0, 1), (1, 2, 3)]


def test_places_of_a_smaller_sample_begin_the_larger_one() -> None:
    assert places(50, 50).sort().values.tolist() == list(range(50))
    assert places(50, 7).tolist() == places(50, 20)[:7].tolist()
