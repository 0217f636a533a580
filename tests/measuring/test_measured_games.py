"""Games whose answer is known: additive, shifted and planted evidence."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from nets import make_net
from odd_nets import Cued, Shifting
from torch import Tensor

from captum_kmex import LayerKMeansAttribution, Measured

pytestmark = pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewPixelsWarning")
PARTS = 5


class Pooled:
    """A net whose features before a pooled linear head can have cells taken out."""

    def __init__(self) -> None:
        self.net = make_net().double()
        self.x = torch.rand(1, 1, 20, 24, generator=torch.Generator().manual_seed(3)).double()
        self.attr = LayerKMeansAttribution(self.net, "stage3", n_clusters=PARTS)
        self.segments = self.attr.segment(self.x)[0]
        with torch.no_grad():
            self.tap = self.net.stage3(self.net.stage2(self.net.stage1(self.x)))

    def value(self, kept: tuple[int, ...], blank: Tensor) -> float:
        """Return the logit of class 1 with the features of some segments, all others blank."""
        cells = torch.isin(self.segments, torch.tensor(kept, dtype=torch.int64))
        with torch.no_grad():
            features = torch.where(cells, self.tap, blank)
            return float(self.net.head(features.mean((2, 3)))[0, 1])

    def left_out(self, blank: Tensor) -> np.ndarray:
        """Return what the logit loses with each segment."""
        whole, every = tuple(range(PARTS)), range(PARTS)
        full = self.value(whole, blank)
        return np.array([full - self.value(tuple(set(every) - {s}), blank) for s in every])

    def shapley(self, blank: Tensor) -> np.ndarray:
        """Return the Shapley value of each segment, from all 2^M coalitions."""
        found, players = np.zeros(PARTS), range(PARTS)
        for size in players:
            weight = math.factorial(size) * math.factorial(PARTS - size - 1) / math.factorial(PARTS)
            for kept in itertools.combinations(players, size):
                for s in set(players) - set(kept):
                    gain = self.value((*kept, s), blank) - self.value(kept, blank)
                    found[s] += weight * gain
        return found


@pytest.fixture(scope="module")
def pooled() -> Pooled:
    return Pooled()


def by_number(rows, name: str = "evidence") -> np.ndarray:
    return np.array([getattr(row, name) for row in sorted(rows, key=lambda row: row.segment)])


def test_free_truth_at_the_tap(pooled):
    """The allocated ledger is leave-one-segment-out and the Shapley value, with no removal."""
    rows = pooled.attr.explain(pooled.x, 1).ledger[0]
    nothing = torch.zeros_like(pooled.tap)
    assert len(rows) == PARTS
    assert np.allclose(by_number(rows), pooled.left_out(nothing), atol=1e-12)
    assert np.allclose(by_number(rows), pooled.shapley(nothing), atol=1e-12)


@pytest.mark.parametrize("fill", ["zero", "mean"])
def test_additive_game_is_measured_exactly(pooled, fill):
    rows = pooled.attr.explain(pooled.x, 1, evidence=Measured(at="stage3", baseline=fill)).ledger[0]
    mean = pooled.tap.mean((2, 3), keepdim=True).expand_as(pooled.tap)
    truth = pooled.left_out(mean if fill == "mean" else torch.zeros_like(mean))
    slack = 1e-4 * abs(truth).max()
    assert np.allclose(by_number(rows), truth, atol=slack)
    assert np.allclose(by_number(rows, "removed"), truth, atol=1e-12)
    assert np.allclose(by_number(rows, "kept"), truth, atol=1e-12)
    assert (by_number(rows, "error") < 1e-2 * abs(truth).max()).all()


def test_network_that_shifts_its_features_is_measured_where_the_image_is():
    x = torch.zeros(1, 1, 16, 16)
    x[..., 5:9, 11:15] = 1
    attr = LayerKMeansAttribution(Shifting().eval(), ["rolled"], n_clusters=6)
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[5:9, 11:15] = True
    allocated = attr.attribute(x, 0)[0, 0]
    measured = attr.attribute(x, 0, evidence=Measured(at="input", baseline="zero"))[0, 0]
    assert not inside.flatten()[allocated.argmax()]
    assert inside.roll(-8, 1).flatten()[allocated.argmax()]
    assert inside.flatten()[measured.argmax()]
    assert measured[inside].mean() > 3 * measured[inside.roll(-8, 1)].mean()


@pytest.mark.parametrize("place", [(3, 4), (12, 10), (0, 15)])
def test_planted_cue_leads_the_ledger(place):
    generator = torch.Generator().manual_seed(0)
    x = 0.3 + 0.05 * torch.rand(1, 3, 20, 20, generator=generator)
    row, column = place
    cue = torch.zeros(20, 20, dtype=torch.bool)
    cue[row : row + 5, column : column + 5] = True
    x[0, :, cue] = torch.tensor([1.0, 0, 0])[:, None]
    model = Cued().eval()
    assert model(x).argmax(1).tolist() == [1]
    attr = LayerKMeansAttribution(model, ["act"], n_clusters=6)
    result = attr.explain(x, evidence="measured")
    rows, total = result.ledger[0], float(result.output - result.bias)
    first = rows[0]
    assert torch.equal(result.segments[0] == first.segment, cue)
    assert first.evidence > 0.8 * total
    assert first.removed == pytest.approx(total, rel=0.05)
    assert first.kept == pytest.approx(total, rel=0.05)
    assert first.is_clear
    assert all(abs(row.removed) < 0.05 * total for row in rows[1:])
    assert result.sufficient(0) == result.necessary(0) == (first.segment,)


def test_allocated_evidence_has_nothing_of_what_is_measured(pooled):
    result = pooled.attr.explain(pooled.x, 1)
    row = result.ledger[0][0]
    assert (row.removed, row.kept, row.error, row.is_clear, row.ties) == (None,) * 4 + ((),)
    for ask in (result.sufficient, result.necessary):
        with pytest.raises(ValueError, match=r"no segment removed; explain\(x, evidence='measured"):
            ask(0)


def test_index_of_minimal_segments_is_checked(pooled):
    result = pooled.attr.explain(pooled.x, evidence=Measured(passes="half"))
    assert result.sufficient(-1) == result.sufficient(0) == result.enough[0]
    assert result.necessary() == result.needed[0]
    with pytest.raises(ValueError, match="index"):
        result.sufficient(1)
