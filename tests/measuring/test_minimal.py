"""The fewest segments that keep a class, or change it, against every prefix tried alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from captum_kmex.explaining.evidence import Question
from captum_kmex.measuring.minimal import Minimal, minimal_segments

LABELS = torch.arange(36).view(6, 6) // 2 * 3  # 18 segments, numbers with gaps
NUMBERS = LABELS.unique()


class Machine:
    """Logits that are sums over the cells kept, and of pairs of segments."""

    def __init__(self, seed: int, logits: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.weights = torch.randn(36, logits, generator=generator)
        self.pairs = 0.5 * torch.randn(36, 36, logits, generator=generator)
        self.bias = torch.randn(logits, generator=generator)
        self.most = 0

    def __call__(self, kept: Tensor) -> Tensor:
        self.most = max(self.most, len(kept))
        cells = kept.flatten(1).float()
        pairs = torch.einsum("mi,mj,ijk->mk", cells, cells, self.pairs) / 6
        return cells @ self.weights + pairs + self.bias

    def of(self, segments: list[int]) -> Tensor:
        return self(torch.isin(LABELS, torch.tensor(segments, dtype=torch.int64))[None])


def by_hand(machine: Machine, order: list[int], says) -> Minimal:
    everything = NUMBERS.tolist()
    prefixes = [order[: i + 1] for i in range(len(order))]
    enough = [p for p in prefixes if says(machine.of(p))]
    needed = [p for p in prefixes if not says(machine.of([n for n in everything if n not in p]))]
    return Minimal(*(tuple(found[0]) if found else None for found in (enough, needed)))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["class", "contrast", "single"])
def test_segments_are_the_shortest_prefixes(seed, kind):
    machine = Machine(seed, 1 if kind == "single" else 4)
    whole = machine.of(NUMBERS.tolist())
    first, second = whole[0].sort(descending=True)[1][[0, -1]] if kind != "single" else (0, 0)
    contrast = second[None] if kind == "contrast" else None
    question = Question(torch.as_tensor(first).view(1), contrast)
    evidence = torch.randn(18, generator=torch.Generator().manual_seed(seed)).double()
    sign = 1 if kind != "single" or whole > 0 else -1
    order = [int(NUMBERS[i]) for i in (sign * evidence).argsort(descending=True)]

    def says(logits: Tensor) -> bool:
        if kind == "contrast":
            return bool(logits[0, first] > logits[0, second])
        if kind == "single":
            return bool((logits > 0) == (whole > 0))
        return bool(logits.argmax() == first)

    found = minimal_segments(LABELS, evidence, question, whole, machine)
    assert found == by_hand(machine, order, says)
    assert machine.most <= 8


def test_image_of_another_class_has_none():
    machine = Machine(0, 4)
    whole = machine.of(NUMBERS.tolist())
    least = whole.argmin(1)
    found = minimal_segments(LABELS, torch.ones(18), Question(least), whole, machine)
    assert found == Minimal(None, None)


def test_class_that_stays_when_all_is_removed_needs_nothing_in_particular():
    machine = Machine(0, 4)
    machine.bias[2] = 1000
    whole = machine.of(NUMBERS.tolist())
    found = minimal_segments(LABELS, torch.arange(18.0), Question(whole.argmax(1)), whole, machine)
    assert found == Minimal((int(NUMBERS[-1]),), None)
