"""Figures with known parts: exact redrawing, and what the shipped network looks at."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.tasks import parts
from benchmarks.tasks.data.birds import CLASSES, PARTS, SIZE, Pose, class_names, partner, render
from benchmarks.tasks.data.small_pictures import load_small_resnet

State = dict[str, Tensor]
SEEDS = [(7, i) for i in range(32)]
N_CHECKED = 32
CHECKSUM = "73d8bb092719711c415310a89f8be8961f98bff8823c4c1158bf3b7839835750"


def test_figures_are_the_same_on_every_machine() -> None:
    found = hashlib.sha256()
    for i in range(10):
        label, pose = parts.pose_of("train", i)
        found.update(render(label, pose).picture.tobytes())
    assert found.hexdigest() == CHECKSUM


@pytest.mark.parametrize("seed", SEEDS[:8])
def test_figure_masks_are_disjoint_and_tell_what_was_painted(seed: tuple[int, int]) -> None:
    pose = Pose.draw(seed)
    figure = render(5, pose)
    shown = np.sum(list(figure.masks.values()), 0)
    assert shown.max() == 1
    assert np.array_equal(shown > 0, figure.object_mask)
    plain = np.clip(pose.scene + pose.noise, 0, 255)
    assert np.array_equal(figure.picture[~figure.object_mask], plain[~figure.object_mask])


def test_figure_parts_are_large_enough_for_a_grid_of_14() -> None:
    for i, seed in enumerate(SEEDS):
        masks = render(i % 8, Pose.draw(seed)).masks
        assert all(masks[part].sum() >= 36 for part in PARTS)


@pytest.mark.parametrize("name", [*PARTS, "hat", "feet"])
def test_render_drops_a_part_and_changes_nothing_else(name: str) -> None:
    for seed in SEEDS[:8]:
        pose = Pose.draw(seed)
        whole, less = render(3, pose), render(3, pose, drop=[name])
        changed = (whole.picture != less.picture).any(2)
        assert not changed[~whole.masks[name]].any()
        assert not less.masks[name].any()
        if name in PARTS:
            assert changed.sum() > 30


@pytest.mark.parametrize("part", list(PARTS))
@pytest.mark.parametrize("label", range(len(CLASSES)))
def test_render_with_a_part_swapped_is_the_minimal_pair_in_the_same_pose(
    part: str, label: int
) -> None:
    pose = Pose.draw((8, label))
    other = partner(label, part)
    kind = CLASSES[other][list(PARTS).index(part)]
    swapped, paired = render(label, pose, swap={part: kind}), render(other, pose)
    assert np.array_equal(swapped.picture, paired.picture)
    whole = render(label, pose)
    changed = (whole.picture != swapped.picture).any(2)
    assert not changed[~(whole.masks[part] | swapped.masks[part])].any()


def test_classes_have_one_minimal_pair_a_part() -> None:
    assert len(set(class_names())) == len(CLASSES) == 8
    near = {
        (a, b)
        for a, b in combinations(range(8), 2)
        if sum(x != y for x, y in zip(CLASSES[a], CLASSES[b], strict=True)) == 1
    }
    pairs = {tuple(sorted((a, partner(a, part)))) for a in range(8) for part in PARTS}
    assert pairs == near
    assert all(partner(partner(a, part), part) == a for a in range(8) for part in PARTS)


def test_render_refuses_a_part_that_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="parts are beak, wing, tail"):
        render(0, Pose.draw((0, 0)), drop=["nose"])
    with pytest.raises(ValueError, match="kind 0 or 1"):
        render(0, Pose.draw((0, 0)), swap={"tail": 2})


def test_annotations_are_those_of_the_figures() -> None:
    chosen = torch.tensor([3, 17])
    known = parts.annotate("test", chosen)
    assert known["masks"].shape == (2, SIZE, SIZE)
    assert known["parts"].shape == (2, 3, SIZE, SIZE)
    assert known["parts"].sum(1).max() == 1
    assert not (known["parts"].any(1) & ~known["masks"]).any()
    inputs = _inputs("test", (3, 17))
    changed = (known["without"] != inputs[:, None]).any(2)
    assert known["without"].shape == (2, 3, 3, SIZE, SIZE)
    assert not (changed & ~known["parts"]).any()


def test_redrawn_figures_lack_what_is_gone_and_nothing_else() -> None:
    chosen = torch.tensor([3, 17, 40])
    known, inputs = parts.annotate("test", chosen), _inputs("test", chosen.tolist())
    objects, redraw = known["objects"], known["redraw"]
    assert objects.sum(1).max() == 1
    assert torch.equal(objects[:, :3], known["parts"])
    assert torch.equal(redraw(torch.zeros(objects.shape[:2], dtype=torch.bool)), inputs)
    for q, one in enumerate(torch.eye(objects.shape[1], dtype=torch.bool)):
        changed = (redraw(one.expand(len(chosen), -1)) != inputs).any(1)
        assert not (changed & ~objects[:, q]).any()
        assert torch.equal(changed.flatten(1).any(1), objects[:, q].flatten(1).any(1))
    gone = torch.zeros(2, objects.shape[1], dtype=torch.bool)
    gone[1, 2] = True  # fewer figures than were drawn
    assert torch.equal(redraw(gone), torch.stack([inputs[0], known["without"][1, 2]]))


@pytest.mark.bench
def test_network_needs_the_parts_and_hardly_anything_besides() -> None:
    chosen = torch.arange(N_CHECKED)
    known, inputs = parts.annotate("test", chosen), _inputs("test", range(N_CHECKED))
    model = load_small_resnet("parts", 3, len(CLASSES))
    is_part = (torch.arange(known["objects"].shape[1]) < len(PARTS)).expand(N_CHECKED, -1)
    with torch.no_grad():
        whole, alone, bare = (
            model(x).argmax(1)
            for x in (inputs, known["redraw"](~is_part), known["redraw"](is_part))
        )
    assert (alone == whole).double().mean() >= 0.85
    assert (bare != whole).double().mean() >= 0.75


@pytest.mark.bench
def test_network_reads_the_figures(shipped: State) -> None:
    assert (shipped["whole"].argmax(1) == shipped["labels"]).double().mean() >= 0.9


@pytest.mark.bench
@pytest.mark.parametrize("at", range(len(PARTS)), ids=list(PARTS))
def test_network_needs_each_part_of_the_class(shipped: State, at: int) -> None:
    """Without a part the network cannot tell the minimal pair; with the other kind it does."""
    part, labels = list(PARTS)[at], shipped["labels"]
    rows, pair = torch.arange(len(labels)), torch.tensor([partner(int(c), part) for c in labels])
    assert (shipped[f"swap {part}"].argmax(1) == pair).double().mean() >= 0.9
    whole, dropped = shipped["whole"], shipped[f"drop {part}"]
    assert (whole[rows, labels] > dropped[rows, labels]).double().mean() >= 0.8
    assert (whole.argmax(1) != dropped.argmax(1)).double().mean() >= 0.25
    margin = [z[rows, labels] - z[rows, pair] for z in (whole, dropped)]
    assert margin[1].mean() < 0.5 * margin[0].mean()


@pytest.mark.bench
def test_network_does_without_hat_and_feet(shipped: State) -> None:
    agrees = shipped["whole"].argmax(1) == shipped["drop hat and feet"].argmax(1)
    assert agrees.double().mean() >= 0.95


def _inputs(
    split: str, places: Iterable[int], drop: Collection[str] = (), swapped: str | None = None
) -> Tensor:
    pictures = []
    for i in places:
        label, pose = parts.pose_of(split, int(i))
        label = partner(label, swapped) if swapped else label
        pictures.append(render(label, pose, drop=drop).picture)
    return parts.standardised(pictures)


@pytest.fixture(name="shipped", scope="module")
def _shipped() -> State:
    """Logits of the shipped network on test figures, whole, with parts dropped and swapped."""
    model = load_small_resnet("parts", 3, len(CLASSES))
    places = range(N_CHECKED)
    inputs = {"whole": _inputs("test", places)}
    inputs["drop hat and feet"] = _inputs("test", places, ["hat", "feet"])
    inputs |= {f"drop {part}": _inputs("test", places, [part]) for part in PARTS}
    inputs |= {f"swap {part}": _inputs("test", places, swapped=part) for part in PARTS}
    labels = torch.tensor([parts.pose_of("test", i)[0] for i in places])
    with torch.no_grad():
        return {name: model(x) for name, x in inputs.items()} | {"labels": labels}
