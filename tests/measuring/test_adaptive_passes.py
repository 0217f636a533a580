"""``passes="adaptive"``: as "half" where that tells the leading segment, and else as "full"."""

from __future__ import annotations

import pytest
import torch
from nets import LAYERS, drawn_sided, make_net, make_sided
from torch import Tensor, nn

from captum_kmex import Explanation, LayerKMeansAttribution, Measured

pytestmark = pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewPixelsWarning")
COUNT = 12
TARGETS = torch.arange(COUNT) % 3


def spotted() -> Tensor:
    """Images of noise, some with a bright spot that leads."""
    generator = torch.Generator().manual_seed(0)
    x = 0.3 * torch.rand(COUNT, 1, 16, 16, generator=generator)
    x[::2, :, 4:8, 5:9] += torch.linspace(0.5, 3, COUNT // 2).view(-1, 1, 1, 1)
    return x


def passes_of(model: nn.Module) -> list[int]:
    """Return a list to which every pass of the model adds its number of images."""
    found: list[int] = []
    model.register_forward_pre_hook(lambda _, given: found.append(len(given[0])))
    return found


def tells(half: Explanation, image: int) -> bool:
    """Whether the first row of the ledger is clear, and alike to no other."""
    row = half.ledger[image][0]
    return bool(row.is_clear) and not row.ties


def assert_same(found: Explanation, i: int, wanted: Explanation, j: int) -> None:
    assert found.ledger[i] == wanted.ledger[j]
    assert torch.equal(found.attribution[i], wanted.attribution[j])
    assert found.sufficient(i) == wanted.sufficient(j)
    assert found.necessary(i) == wanted.necessary(j)


MADE = {
    "pixels": lambda: (make_net().double(), spotted().double(), None),
    "features": lambda: (make_net(seed=2).double(), spotted().double(), "stage1"),
    "signals": lambda: (make_sided(1, seed=1).double(), drawn_sided(1, seed=4).double(), "stage2"),
}


@pytest.mark.parametrize("made", MADE)
def test_images_have_the_account_of_the_first_stage_that_tells_the_leader(made):
    net, x, at = MADE[made]()
    attr = LayerKMeansAttribution(net, LAYERS, n_clusters=6)
    half, full, adaptive = (
        attr.explain(x, TARGETS, evidence=Measured(at=at, passes=passes))
        for passes in ("half", "full", "adaptive")
    )
    told = [tells(half, i) for i in range(COUNT)]
    assert any(told)
    assert not all(told)
    for i in range(COUNT):
        assert_same(adaptive, i, half if told[i] else full, i)
    maps = attr.attribute(x, TARGETS, evidence=Measured(at=at, passes="adaptive"))
    assert torch.equal(maps, adaptive.attribution)


def test_passes_are_those_of_the_stages_that_were_needed():
    net, x = make_net().double(), spotted().double()
    attr = LayerKMeansAttribution(net, LAYERS, n_clusters=6)
    attr.attribute(x, evidence="measured")  # the head is found
    found, counts = passes_of(net), {}
    for passes in ("half", "full", "adaptive"):
        options = Measured(passes=passes)
        for i in range(COUNT):
            found.clear()
            attr.attribute(x[i : i + 1], TARGETS[i : i + 1], evidence=options)
            counts.setdefault(passes, []).append(sum(found))
    half = attr.explain(x, TARGETS, evidence=Measured(passes="half"))
    assert counts["adaptive"] == [
        counts["half" if tells(half, i) else "full"][i] for i in range(COUNT)
    ]


def test_each_target_has_its_own_account_whatever_is_asked_beside_it():
    net, x = make_net().double(), spotted().double()
    attr = LayerKMeansAttribution(net, LAYERS, n_clusters=6)
    options, targets = Measured(passes="adaptive"), [0, 1, 2]
    half = attr.explain_targets(x, targets, evidence=Measured(passes="half"))
    told = [[tells(result, i) for result in half] for i in range(COUNT)]
    assert any(any(of_image) and not all(of_image) for of_image in told)
    for target, result in zip(
        targets, attr.explain_targets(x, targets, evidence=options), strict=True
    ):
        alone = attr.explain(x, target, evidence=options)
        for i in range(COUNT):
            assert_same(result, i, alone, i)


def test_an_image_has_the_same_account_in_any_batch_and_with_any_number_at_a_time():
    net, x = make_net().double(), spotted().double()
    attr = LayerKMeansAttribution(net, LAYERS, n_clusters=6)
    together = attr.explain(x, TARGETS, evidence=Measured(passes="adaptive"))
    for i in range(COUNT):
        options = Measured(passes="adaptive", perturbations_per_eval=i + 1)
        alone = attr.explain(x[i : i + 1], TARGETS[i : i + 1], evidence=options)
        assert torch.allclose(alone.attribution[0], together.attribution[i], atol=1e-9)


def test_progress_ends_full_where_passes_are_spared(capsys):
    attr = LayerKMeansAttribution(make_net().double(), LAYERS, n_clusters=6)
    options = Measured(passes="adaptive", baseline=["mean", "zero"], show_progress=True)
    attr.explain(spotted().double(), TARGETS, evidence=options)
    last = capsys.readouterr().err.rsplit("removing parts:", 1)[1]
    assert last.strip().startswith("100%")


def test_one_segment_leads_alone():
    attr = LayerKMeansAttribution(make_net().double(), LAYERS, n_clusters=1)
    result = attr.explain(spotted().double(), 0, evidence=Measured(passes="adaptive"))
    assert all(len(rows) == 1 and not rows[0].ties for rows in result.ledger)
