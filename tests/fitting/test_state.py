"""What is declared is saved, checked and joined, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from machines import share
from torch import Tensor

from captum_kmex.bank.tensor_kinds import FLOAT, INTEGER, TensorKind
from captum_kmex.fitting.options import FitOptions
from captum_kmex.fitting.sampling_pass import Collection
from captum_kmex.fitting.state import State, added, alike, beside, greatest, least


class Inner(State):
    total: Tensor

    def __init__(self, total: list[float]) -> None:
        super().__init__()
        self.declare("total", torch.tensor(total), TensorKind(FLOAT, ("width",)), added)


class Outer(State):
    """A state of everything that may be declared, with two states inside."""

    def __init__(self, n: int = 0, low: float = 0.5, sizes: tuple[int, ...] = (), rows=((1,),)):
        super().__init__()
        self.declare("n", n, TensorKind(INTEGER, (), 0), added)
        self.declare("low", low, TensorKind(torch.float64, ()), least)
        self.declare("high", low, TensorKind(torch.float64, ()), greatest)
        self.declare("sizes", sizes, TensorKind(INTEGER, ("sizes",)), alike)
        self.declare("rows", torch.tensor(rows), TensorKind(INTEGER, (1, "columns")), beside)
        self.other = "not declared"
        self.inner = [Inner([1.0, 2.0]), Inner([3.0])]

    def parts(self) -> Iterator[tuple[str, State]]:
        for number, part in enumerate(self.inner):
            yield f"{number}", part


def test_state_holds_what_was_declared_as_tensors():
    saved = Outer(3, 0.1, (4, 5)).state()
    assert sorted(saved) == ["0.total", "1.total", "high", "low", "n", "rows", "sizes"]
    assert saved["n"].dtype == saved["sizes"].dtype == torch.int64
    assert saved["low"].item() == 0.1  # in float64


def test_restored_values_are_of_the_type_they_were():
    read = Outer()
    read.restore(Outer(3, 0.1, (4, 5), ((7, 8),)).state())
    assert (read.n, read.low, read.sizes) == (3, 0.1, (4, 5))
    assert (type(read.n), type(read.low)) == (int, float)
    assert read.rows.tolist() == [[7, 8]]


def test_machines_join_by_what_was_declared():
    one, two = Outer(3, 0.1, (4, 5), ((7, 8),)), Outer(4, 0.2, (4, 5), ((9,),))
    share(one, two)
    for found in (one, two):
        assert (found.n, found.low, found.high, found.sizes) == (7, 0.1, 0.2, (4, 5))
        assert found.rows.tolist() == [[7, 8, 9]]
        assert [part.total.tolist() for part in found.inner] == [[2, 4], [6]]


def test_alone_nothing_changes():
    alone = Outer(3, 0.1, (4, 5))
    alone.share()
    assert (alone.n, alone.low, alone.high, alone.sizes) == (3, 0.1, 0.1, (4, 5))


@pytest.mark.parametrize("empty_first", [False, True])
def test_machine_that_saw_nothing_takes_what_the_others_have(empty_first):
    zeros, known = Inner([]), Outer(2, 0.1, (4, 5))
    zeros.total = torch.zeros(())  # whose width is not known yet
    unknown = Outer(0, torch.inf, ())
    unknown.inner[0] = zeros
    share(*((unknown, known) if empty_first else (known, unknown)))
    assert unknown.sizes == known.sizes == (4, 5)
    assert unknown.inner[0].total.tolist() == known.inner[0].total.tolist() == [1, 2]


def test_machines_that_must_be_alike_and_differ_are_refused():
    with pytest.raises(ValueError, match=r"machines differ \(\[4\] and \[5\]\)"):
        share(Outer(sizes=(4,)), Outer(sizes=(5,)))


@pytest.mark.parametrize("name", ["capacity", "is_weighted"])
def test_samples_of_other_capacity_do_not_join(name):
    one, two = (Collection(FitOptions(2), torch.device("cpu")) for _ in range(2))
    setattr(one, name, 20)
    setattr(two, name, 21)
    with pytest.raises(ValueError, match=r"machines differ \(20 and 21\)"):
        share(one, two)


SPOILT = {
    "missing": ({"n": None}, "lacks 'n'"),
    "unknown": ({"other": torch.zeros(1)}, "'other' is no known tensor"),
    "type": ({"n": torch.tensor(1.0)}, "n is torch.float32"),
    "range": ({"n": torch.tensor(-1)}, "n holds values out of their range"),
    "inside": ({"1.total": torch.zeros(1, 1)}, r"1.total is .*not a float of shape \(width 1\)"),
}


@pytest.mark.parametrize(("change", "message"), SPOILT.values(), ids=SPOILT)
def test_saved_state_is_checked_by_what_was_declared(change, message):
    saved = Outer(3, 0.1, (4, 5)).state()
    Outer().check(saved, {})
    spoilt = {name: tensor for name, tensor in (saved | change).items() if tensor is not None}
    with pytest.raises(ValueError, match=message):
        Outer().check(spoilt, {})


def test_sizes_of_one_name_are_of_one_part():
    """Each part has its own width; what begins with a slash is the same in all."""
    sizes: dict[str, object] = {}
    Outer().check(Outer().state(), sizes)
    assert (sizes["width 0"], sizes["width 1"]) == (2, 1)
