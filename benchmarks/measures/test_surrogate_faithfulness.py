from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.measures.formulas.toy import Given, answers_of, linear_net, task_of
from benchmarks.measures.surrogate_faithfulness import (
    MEASURES,
    added_up,
    dealt_anew,
    output_errors,
    purity_gain,
)
from benchmarks.quality.method import OURS, ConceptMaps, Method, UnavailableError

_SURF = MEASURES[0]
_N, _J, _D = 6, 4, 5


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(2)


class _Ledger(Method):
    """The exact evidence of a pooled linear head, in segments that are halves of the image."""

    family = OURS
    source = "test"

    def __init__(self, net: nn.Sequential, factor: float = 1.0) -> None:
        self._net, self._factor = net, factor

    def maps(self, inputs: Tensor, targets: Tensor) -> Tensor:
        features = self._net[1](self._net[0](inputs))
        columns = self._net[-1].weight[targets]
        area = features.shape[2] * features.shape[3]
        maps: Tensor = self._factor * torch.einsum("nd,ndhw->nhw", columns, features) / area
        return maps

    def segments(self, inputs: Tensor, targets: Tensor) -> Tensor:
        rows = (torch.arange(inputs.shape[2]) >= inputs.shape[2] // 2).long()
        return rows[None, :, None].expand(len(inputs), -1, inputs.shape[3]).clone()


class _Concepts(_Ledger):
    """The same as concepts: each channel is one, with the head's weight as its importance."""

    family = "concepts"

    def concepts(self, inputs: Tensor, targets: Tensor) -> ConceptMaps:
        maps = self._net[1](self._net[0](inputs))
        return ConceptMaps(maps, self._factor * self._net[-1].weight[targets])


class _FromElsewhere(_Ledger):
    """The same evidence less one in all, from a base that is the bias and one more."""

    def maps(self, inputs: Tensor, targets: Tensor) -> Tensor:
        maps = super().maps(inputs, targets)
        return maps - 1 / maps[0].numel()

    def base(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return self._net[-1].bias[targets] + 1


@pytest.fixture
def net(random: torch.Generator) -> nn.Sequential:
    layers = (nn.Conv2d(3, _D, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = nn.Sequential(*layers, nn.Linear(_D, _J)).eval()
    with torch.no_grad():
        for p in found.parameters():
            p.copy_(torch.randn(p.shape, generator=random))
    return found


@pytest.mark.parametrize("kind", [_Ledger, _Concepts, _FromElsewhere])
def test_what_adds_up_exactly_has_no_error(
    kind: type[_Ledger], net: nn.Sequential, random: torch.Generator
) -> None:
    x = torch.randn(_N, 3, 8, 8, generator=random)
    with torch.no_grad():
        found = _SURF.score(answers_of(task_of(net, _J), kind(net), x))
    assert found["logits"].max() < 1e-5
    assert found["probabilities"].max() < 1e-5
    assert found["empty"].min() > 0.1


def test_an_exact_ledger_over_a_random_partition_has_no_error_either(
    net: nn.Sequential, random: torch.Generator
) -> None:
    x = torch.randn(_N, 3, 8, 8, generator=random)
    masks = torch.zeros(_N, 8, 8, dtype=torch.bool)
    masks[:, 4:] = True
    with torch.no_grad():
        found = _SURF.score(answers_of(task_of(net, _J), _Ledger(net), x, masks=masks))
    assert torch.allclose(found["dealt"], found["logits"], atol=1e-9)
    assert (found["purity"] > 0.2).all()  # the segments are the masks


@pytest.mark.parametrize("kind", [_Ledger, _Concepts])
def test_twice_the_evidence_errs_by_the_evidence(
    kind: type[_Ledger], net: nn.Sequential, random: torch.Generator
) -> None:
    x = torch.randn(_N, 3, 8, 8, generator=random)
    with torch.no_grad():
        found = _SURF.score(answers_of(task_of(net, _J), kind(net, factor=2.0), x))
    assert torch.allclose(found["logits"], found["empty"], atol=1e-5)


def test_added_up_tells_importance_of_a_class_from_that_of_an_image(
    random: torch.Generator,
) -> None:
    maps, worth = torch.rand(4, 3, 5, 5, generator=random), torch.rand(4, 3, generator=random)
    assert torch.allclose(added_up(ConceptMaps(maps, worth)), worth.double().sum(1))
    shared = worth[:1].expand(4, -1)
    want = (shared.double() * maps.double().mean((2, 3))).sum(1)
    assert torch.allclose(added_up(ConceptMaps(maps, shared)), want)


def test_output_errors_equal_numpy(random: torch.Generator) -> None:
    a, b = torch.randn(2, 9, _J, generator=random).double()
    logit, chance = output_errors(a, b)
    for x, y, error, distance in zip(a.numpy(), b.numpy(), logit, chance, strict=True):
        p, q = (np.exp(z) / np.exp(z).sum() for z in (x, y))
        assert error.item() == pytest.approx(np.mean(np.abs(x - y)))
        assert distance.item() == pytest.approx(1 - np.minimum(p, q).sum())


def test_dealing_anew_keeps_sizes_and_leaves_no_purity(random: torch.Generator) -> None:
    segments = torch.arange(8)[:, None].expand(5, 8, 400) // 2
    dealt = dealt_anew(segments, 0)
    for one, other in zip(segments, dealt, strict=True):
        assert torch.equal(one.flatten().bincount(), other.flatten().bincount())
    labels = (segments == 3).long()
    assert torch.allclose(purity_gain(segments, labels, 0), torch.tensor(0.25).double(), atol=0.01)
    assert purity_gain(dealt, labels, 1).abs().max() < 0.01


def test_a_map_alone_adds_up_to_nothing(net: nn.Sequential, random: torch.Generator) -> None:
    x = torch.randn(_N, 3, 8, 8, generator=random)
    with torch.no_grad(), pytest.raises(UnavailableError, match="ledger"):
        _SURF.score(answers_of(task_of(net, _J), Given(lambda x, _: x[:, 0]), x))


def test_a_network_without_pooled_head_is_named(random: torch.Generator) -> None:
    x = torch.randn(_N, 3, 8, 8, generator=random)
    plain = linear_net(torch.randn(_J, 3, 8, 8, generator=random))
    with torch.no_grad(), pytest.raises(UnavailableError, match="head"):
        _SURF.score(answers_of(task_of(plain, _J), Given(lambda x, _: x[:, 0]), x))
