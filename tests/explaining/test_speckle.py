"""Speckle is joined to its neighbours as by a loop that begins anew after each join."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from nets import LAYERS, make_net
from scipy import ndimage

from captum_kmex import LayerKMeansAttribution
from captum_kmex.explaining.segments import connected_segments
from captum_kmex.explaining.speckle import without_speckle

KINDS = ["unfitted", "fitted", "agnostic"]


def cleaned_by_loops(labels: np.ndarray, min_area: int) -> np.ndarray:
    """Join the smallest piece, find all pieces again, and so on."""
    labels = labels.copy()
    while True:
        small = [piece for piece in pieces_of(labels) if piece.sum() < min_area]
        if not small or small[0].all():
            return labels
        piece = min(small, key=lambda mask: (mask.sum(), mask.ravel().argmax()))
        shared = border_of(labels, piece)
        labels[piece] = min(shared, key=lambda label: (-shared[label], label))


def pieces_of(labels: np.ndarray) -> list[np.ndarray]:
    found = []
    for label in np.unique(labels):
        parts, count = ndimage.label(labels == label)
        found += [parts == part for part in range(1, count + 1)]
    return found


def border_of(labels: np.ndarray, piece: np.ndarray) -> dict[int, int]:
    """Count the sides that a piece shares with each label around it."""
    shared: dict[int, int] = {}
    for y, x in zip(*np.nonzero(piece), strict=True):
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= v < len(labels) and 0 <= u < labels.shape[1] and not piece[v, u]:
                shared[int(labels[v, u])] = shared.get(int(labels[v, u]), 0) + 1
    return shared


@pytest.mark.parametrize("min_area", [2, 3, 7, 1000])
@pytest.mark.parametrize("shape", [(9, 7), (1, 12), (12, 1), (1, 1), (14, 14)])
@pytest.mark.parametrize("count", [2, 4])
def test_cleaning_is_that_of_a_loop(shape, count, min_area):
    generator = torch.Generator().manual_seed(min_area)
    segments = torch.randint(count, (3, *shape), generator=generator)
    found = without_speckle(segments, min_area)
    for i in range(3):
        expected = cleaned_by_loops(segments[i].numpy(), min_area)
        np.testing.assert_array_equal(found[i].numpy(), expected)


def test_no_piece_is_too_small_but_a_whole_image():
    segments = torch.randint(5, (4, 20, 20), generator=torch.Generator().manual_seed(1))
    pieces, _ = connected_segments(without_speckle(segments, 6))
    for image in pieces:
        assert image.flatten().bincount().min() >= 6
    tiny = torch.tensor([[[0, 1], [1, 0]]])
    assert len(without_speckle(tiny, 9).unique()) == 1


def test_pieces_that_are_large_enough_stay():
    segments = torch.tensor([[[0, 0, 1, 1], [0, 0, 1, 2], [3, 3, 2, 2]]])
    assert torch.equal(without_speckle(segments, 2), segments)
    assert without_speckle(segments, 1) is segments


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        ([[0, 0, 0], [0, 5, 1], [1, 1, 1]], [[0, 0, 0], [0, 0, 1], [1, 1, 1]]),
        ([[0, 0, 0], [1, 5, 1], [1, 1, 1]], [[0, 0, 0], [1, 1, 1], [1, 1, 1]]),
        ([[3, 3, 5, 2, 2]], [[3, 3, 2, 2, 2]]),
        ([[3, 3, 2, 1, 4, 4]], [[3, 3, 1, 1, 4, 4]]),
    ],
    ids=["tie", "most border", "lowest number", "first first"],
)
def test_a_cell_goes_where_it_shares_most_border(segments, expected):
    assert without_speckle(torch.tensor([segments]), 2).tolist() == [expected]


def test_an_image_is_cleaned_as_it_is_alone():
    segments = torch.randint(3, (3, 12, 12), generator=torch.Generator().manual_seed(2))
    together = without_speckle(segments, 5)
    alone = [without_speckle(segments[i : i + 1], 5)[0] for i in range(3)]
    assert torch.equal(together, torch.stack(alone))


# ---------------------------------------------------------------- in explanations


@pytest.fixture(scope="module")
def fits(drawn_images):
    net, x = make_net().double(), drawn_images.double()
    options = {"n_prototypes": 2, "n_clusters": 6}
    fitted = LayerKMeansAttribution(net, LAYERS, **options)
    agnostic = LayerKMeansAttribution(net, LAYERS, average_top=True, **options)
    once = {"n_init": 1, "n_representatives": 2}
    return {
        "unfitted": copy.copy(fitted),
        "fitted": fitted.fit([(x, torch.arange(12) % 3)], **once),
        "agnostic": agnostic.fit([x], labels=None, **once),
    }


@pytest.fixture
def x(images) -> torch.Tensor:
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(3))
    return (images + noise).double()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("connected", [False, True])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_ledger_of_cleaned_segments_adds_up(fits, kind, x, connected, depth):
    attr = fits[kind]
    result = attr.explain(x, 1, depth=depth, connected=connected, min_area=4)
    assert result.delta.abs().max() < 1e-13
    pieces, _ = connected_segments(result.segments)
    for i, rows in enumerate(result.ledger):
        total = sum(row.evidence for row in rows) + float(result.bias[i])
        assert total == pytest.approx(float(result.output[i]), abs=1e-12)
        assert pieces[i].flatten().bincount().min() >= 4
        if connected:
            assert torch.equal(result.segments[i], pieces[i])


@pytest.mark.parametrize("kind", KINDS)
def test_map_is_the_one_of_the_layer_above_averaged_in_cleaned_segments(fits, kind, x):
    attr, above = fits[kind], fits[kind].attribute(x, 1, depth=1)
    segments = attr.segment(x, min_area=5)
    assert not torch.equal(segments, attr.segment(x))
    for i in range(len(x)):
        expected = cleaned_by_loops(attr.segment(x)[i].numpy(), 5)
        np.testing.assert_array_equal(segments[i].numpy(), expected)
    fine = torch.nn.functional.interpolate(4**-1 * above, (16, 16), mode="bilinear")
    found = attr.attribute(x, 1, min_area=5)
    for i in range(len(x)):
        for segment in segments[i].unique():
            inside = segments[i] == segment
            mean = fine[i, 0][inside].mean().expand(int(inside.sum()))
            torch.testing.assert_close(found[i, 0][inside], mean)


def test_joined_cells_stand_for_the_prototype_of_their_neighbour(fits, x):
    result = fits["fitted"].explain(x, 1, min_area=5)
    book = fits["fitted"].bank_.codebooks[0]
    for i, rows in enumerate(result.ledger):
        assert {row.prototype for row in rows} == set(result.segments[i].unique().tolist())
        assert all(row.class_index == book.membership[row.prototype] for row in rows)
    apart = fits["fitted"].explain(x, 1, min_area=5, connected=True)
    for i, rows in enumerate(apart.ledger):
        for row in rows:
            inside = apart.segments[i] == row.segment
            assert (result.segments[i][inside] == row.prototype).all()


@pytest.mark.parametrize("vote", ["distance", "share"])
def test_prototypes_vote_by_the_pixels_as_they_were(fits, x, vote):
    attr = copy.copy(fits["fitted"])
    attr.vote = vote
    cleaned, plain = attr.explain(x, 1, min_area=9), attr.explain(x, 1)
    assert torch.equal(cleaned.class_scores, plain.class_scores)
    assert torch.equal(cleaned.prediction, plain.prediction)


def test_own_prototypes_alone_compete_and_are_cleaned(fits, x):
    result = fits["fitted"].explain(x, 1, restrict="predicted", min_area=5)
    assert all(row.class_index == 1 for rows in result.ledger for row in rows)
    assert result.delta.abs().max() < 1e-13
