"""A call computes with one bank, also while a fit ends in another thread."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

import pytest
import torch
from nets import LAYERS, make_net

from captum_kmex import KMExAttribution, LayerKMeansAttribution
from captum_kmex.attributions.one_bank import bank_of, one_bank
from captum_kmex.metrics.embedding import pooled_embeddings
from captum_kmex.metrics.surrogate_scores import surrogate_scores
from captum_kmex.metrics.wins import prototype_wins

pytestmark = pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewRowsWarning")


class Swapped:
    """A bank that is another one at every reading, as in the middle of fits."""

    def __init__(self, banks: list[object]) -> None:
        self.banks, self.n_read = banks, 0

    def __get__(self, instance: object, owner: type) -> object:
        self.n_read += 1
        return self.banks[self.n_read % len(self.banks)]

    def __set__(self, instance: object, value: object) -> None:
        raise AttributeError


def make(kind: str):
    if kind == "kmex":
        return KMExAttribution(make_net(), n_prototypes=2)
    return LayerKMeansAttribution(make_net(), LAYERS, n_prototypes=2)


def outputs(found: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in found.values()])


CALLS: dict[str, list[Callable]] = {
    "layers": [
        lambda attr, x: attr.attribute(x, target=1),
        lambda attr, x: attr.attribute(x, target=1, restrict="predicted", depth=1),
        lambda attr, x: attr.compute_convergence_delta(attr.attribute(x, target=1) * 0, x, 1),
        lambda attr, x: attr.explain(x, target=1).segments,
        lambda attr, x: attr.explain(x, target=1).class_scores,
        lambda attr, x: attr.segment(x),
        lambda attr, x: attr.classify(x).scores,
        lambda attr, x: attr.predict(x),
        lambda attr, x: outputs(attr.as_module(x, 1)(x)),
        lambda attr, x: prototype_wins(attr, [(x, torch.arange(12) % 3)]).counts,
        lambda attr, x: surrogate_scores(attr, [(x, torch.arange(12) % 3)]).accuracy,
    ],
    "kmex": [
        lambda attr, x: attr.attribute(x, target=1),
        lambda attr, x: attr.attribute(x, target=1, units="distance"),
        lambda attr, x: attr.compute_convergence_delta(torch.zeros(12, 1, 4, 4), x, 1),
        lambda attr, x: attr.similarity(x),
        lambda attr, x: attr.classify(x).scores,
        lambda attr, x: attr.predict(x),
        lambda attr, x: outputs(attr.as_module(x, 1)(x)),
        lambda attr, x: attr.alignment([(x, torch.arange(12) % 3)]).class_cosine,
        lambda attr, x: pooled_embeddings(attr, [(x, torch.arange(12) % 3)])[0],
    ],
}


@pytest.fixture(params=["layers", "kmex"])
def kind(request) -> str:
    return request.param


@pytest.fixture
def banks(kind, images, labels) -> list[object]:
    """Banks of as many prototypes and of another order: mixed ones would go unnoticed."""
    first = make(kind).fit([(images, labels)], n_init=1).bank_
    other = make(kind).fit([(images.flip(0) * 1.5, (labels + 1) % 3)], n_init=1).bank_
    return [first, other]


def test_every_call_computes_with_one_bank(kind, banks, images):
    attr = make(kind)
    expected = []
    for bank in banks:
        attr.own_bank = bank
        expected.append([torch.as_tensor(call(attr, images)) for call in CALLS[kind]])
    swapped = type(attr.get_name(), (type(attr),), {"own_bank": Swapped(banks)})
    del attr.__dict__["own_bank"]
    attr.__class__ = swapped
    for number, call in enumerate(CALLS[kind]):
        for _ in range(3):  # begins with the one or the other
            found = torch.as_tensor(call(attr, images))
            assert any(torch.equal(found, values[number]) for values in expected), number


def test_calls_while_banks_are_swapped_by_another_thread(kind, banks, images):
    attr, x, ends = make(kind), images[:2], threading.Event()
    expected = []
    for bank in banks:
        attr.own_bank = bank
        expected.append(attr.attribute(x, target=1))

    def swap() -> None:
        while not ends.is_set():
            for bank in banks:
                attr.own_bank = bank

    interval = sys.getswitchinterval()
    thread = threading.Thread(target=swap)
    thread.start()
    sys.setswitchinterval(1e-5)
    try:
        found = [attr.attribute(x, target=1) for _ in range(30)]
    finally:
        sys.setswitchinterval(interval)
        ends.set()
        thread.join()
    assert all(any(torch.equal(maps, one) for one in expected) for maps in found)


def test_bank_of_a_call_is_that_of_its_beginning_in_its_thread_alone(kind, banks):
    attr, seen = make(kind), []
    with one_bank(attr):
        attr.own_bank = banks[0]
        assert not attr.is_fitted
        thread = threading.Thread(target=lambda: seen.append(attr.bank_))
        thread.start()
        thread.join()
    assert seen == [banks[0]]
    assert attr.bank_ is banks[0]
    with one_bank(attr):
        attr.own_bank = banks[1]
        with one_bank(attr):
            assert bank_of(attr) is banks[0]
    assert attr.bank_ is banks[1]


def test_bank_is_free_again_after_an_error(kind, banks, images):
    attr = make(kind)
    attr.own_bank = banks[0]
    with pytest.raises(ValueError, match="out of range"):
        attr.attribute(images, target=99)
    attr.own_bank = banks[1]
    assert attr.bank_ is banks[1]
