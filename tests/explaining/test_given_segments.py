"""Segments from outside: the head's map averaged within any mask, exact on any grid."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from nets import LAYERS, make_net

from captum_kmex import ClassifierPrototypes, LayerKMeansAttribution
from captum_kmex.explaining.given_segments import GivenSegments
from captum_kmex.visualization import plot_comparison, plot_contrast, plot_depths, segment_color

N = 3
GRIDS = [(16, 16), (4, 4), (3, 2), (1, 1), (5, 40), (64, 48)]  # the deepest layer's has 4 by 4
grids = pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: "{}x{}".format(*grid))
KINDS = ["unfitted", "fitted", "agnostic"]
FAR = 10**15 + 7  # numbers need not be near each other, nor begin at 0


def draw_mask(grid: tuple[int, int], count: int = N, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 + FAR * torch.randint(5, (count, 1, *grid), generator=generator)


@pytest.fixture(scope="module")
def fits(drawn_images):
    net, x, layers = make_net().double(), drawn_images.double(), LAYERS
    options = {"n_prototypes": 2, "n_clusters": 4}
    fitted = LayerKMeansAttribution(net, layers, **options)
    agnostic = LayerKMeansAttribution(net, layers, average_top=True, **options)
    once = {"n_init": 1, "n_representatives": 2}
    return {
        "unfitted": copy.copy(fitted),
        "fitted": fitted.fit([(x, torch.arange(12) % 3)], **once),
        "agnostic": agnostic.fit([x], labels=None, **once),
    }


@pytest.fixture
def unfitted(fits) -> LayerKMeansAttribution:
    return fits["unfitted"]


@pytest.fixture
def x(images) -> torch.Tensor:
    return images[:N].double()


def map_by_loops(top: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Carry one image's map (h, w) to a mask's grid and average it there, in NumPy."""
    density = top * top.size
    for axis, size in enumerate(mask.shape):
        rows = np.moveaxis(density, axis, 0)
        weights = np.array([weights_of(i, size, len(rows)) for i in range(size)])
        density = np.moveaxis(np.tensordot(weights, rows, 1), 0, axis)
    density = density + top.sum() - density.mean()
    for number in np.unique(mask):
        density[mask == number] = density[mask == number].mean()
    return density / mask.size


def weights_of(i: int, size: int, cells: int) -> np.ndarray:
    """Weigh the old cells by what the i-th new one covers, or as bilinear resizing does."""
    found = np.zeros(cells)
    if size < cells:
        for j in range(cells):
            low, high = max(i / size, j / cells), min((i + 1) / size, (j + 1) / cells)
            found[j] = max(0.0, high - low) * size
        return found
    place = min(max((i + 0.5) * cells / size - 0.5, 0), cells - 1)
    low = int(place)
    found[low] += 1 - (place - low)
    found[min(low + 1, cells - 1)] += place - low
    return found


@grids
def test_map_is_the_heads_carried_to_the_mask_and_averaged_there(unfitted, x, grid):
    mask = draw_mask(grid)
    top = ClassifierPrototypes(unfitted.model).attribute(x, 1).numpy()
    found = unfitted.attribute(x, 1, segments=mask).numpy()
    for i in range(N):
        expected = map_by_loops(top[i, 0], mask[i, 0].numpy())
        np.testing.assert_allclose(found[i, 0], expected, atol=1e-13)


@grids
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("contrast", [None, 2])
def test_map_and_ledger_add_up_to_the_logit_on_any_grid(fits, kind, x, grid, contrast):
    mask = draw_mask(grid)
    maps, delta = fits[kind].attribute(
        x, 1, segments=mask, contrast=contrast, return_convergence_delta=True
    )
    result = fits[kind].explain(x, 1, segments=mask, contrast=contrast)
    assert maps.shape == (N, 1, *grid)
    assert delta.abs().max() < 1e-13
    assert torch.equal(result.attribution, maps)
    logits = fits[kind].model(x).detach()
    output = logits[:, 1] - (0 if contrast is None else logits[:, contrast])
    for i, rows in enumerate(result.ledger):
        total = sum(row.evidence for row in rows) + float(result.bias[i])
        assert total == pytest.approx(float(output[i]), abs=1e-12)


@grids
def test_rows_have_the_numbers_of_the_mask(unfitted, x, grid):
    mask = draw_mask(grid)
    result = unfitted.explain(x, 1, segments=mask)
    assert result.segments_given
    assert torch.equal(result.segments, mask.squeeze(1))
    for i, rows in enumerate(result.ledger):
        assert {row.segment for row in rows} == set(mask[i].unique().tolist())
        for row in rows:
            inside = mask[i, 0] == row.segment
            assert row.evidence == pytest.approx(float(result.attribution[i, 0][inside].sum()))
            assert row.area == pytest.approx(float(inside.double().mean()))
            assert (row.prototype, row.class_index, row.representatives) == (row.segment, None, ())


@pytest.mark.parametrize(
    "form",
    [
        lambda mask: mask,
        lambda mask: mask.squeeze(1),
        lambda mask: mask.numpy(),
        lambda mask: mask.squeeze(1).numpy().astype(np.uint64),
        lambda mask: mask.numpy()[..., ::-1].copy()[..., ::-1],
        lambda mask: mask.squeeze(1).numpy().astype(">i8"),
    ],
    ids=["tensor", "as segment", "array", "unsigned", "reversed", "big-endian"],
)
def test_mask_may_have_any_form(unfitted, x, form):
    mask = draw_mask((8, 6))
    expected = unfitted.attribute(x, segments=mask)
    assert torch.equal(unfitted.attribute(x, segments=form(mask)), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_small_integers_are_taken(unfitted, x, dtype):
    mask = draw_mask((8, 6)) % FAR
    expected = unfitted.attribute(x, segments=mask)
    assert torch.equal(unfitted.attribute(x, segments=mask.to(dtype)), expected)


@pytest.mark.parametrize("form", [lambda m: m, lambda m: m[0], lambda m: m[0, 0].numpy()])
def test_one_mask_is_for_all_images(unfitted, x, form):
    mask = draw_mask((8, 6), 1)
    found = unfitted.explain(x, 1, segments=form(mask))
    expected = unfitted.explain(x, 1, segments=mask.expand(N, -1, -1, -1))
    assert torch.equal(found.attribution, expected.attribution)
    assert found.ledger == expected.ledger
    assert found.segments.shape == (N, 8, 6)


def test_image_has_the_map_that_it_has_alone(unfitted, x):
    mask = draw_mask((24, 24))
    mask[1] = mask[1] // FAR * 12  # other numbers, and other counts
    mask[2] = 9
    together = unfitted.explain(x, 1, segments=mask)
    for i in range(N):
        alone = unfitted.explain(x[i : i + 1], 1, segments=mask[i : i + 1])
        torch.testing.assert_close(together.attribution[i], alone.attribution[0])
        assert [row.segment for row in together.ledger[i]] == [
            row.segment for row in alone.ledger[0]
        ]


def test_numbers_name_and_nothing_more(unfitted, x):
    mask = draw_mask((12, 9))
    renamed = (mask - 3) // FAR + 100
    assert torch.equal(
        unfitted.attribute(x, segments=mask), unfitted.attribute(x, segments=renamed)
    )


def test_a_segment_for_each_pixel_is_the_heads_own_map(unfitted, x):
    mask = torch.arange(16).view(1, 1, 4, 4)
    expected = ClassifierPrototypes(unfitted.model).attribute(x, 1)
    torch.testing.assert_close(unfitted.attribute(x, 1, segments=mask), expected)


def test_own_segments_given_back_change_nothing_at_the_deepest_layer(unfitted, x):
    averaging = copy.copy(unfitted)
    averaging.average_top = True
    segments = averaging.segment(x, depth=-1)
    expected = averaging.attribute(x, 1, depth=-1)
    torch.testing.assert_close(averaging.attribute(x, 1, segments=segments), expected)


@pytest.mark.parametrize("units", ["logit", "alignment"])
def test_units_and_size_of_the_input_are_as_ever(unfitted, x, units):
    mask = draw_mask((16, 16))
    maps = unfitted.attribute(x, 1, segments=mask, units=units)
    large = unfitted.attribute(x, 1, segments=mask, units=units, upsample="input")
    torch.testing.assert_close(large, maps)  # one channel, and as large as the input
    density = ClassifierPrototypes(unfitted.model).attribute(x, 1, units=units)
    total = (lambda m: m.sum((1, 2, 3))) if units == "logit" else (lambda m: m.mean((1, 2, 3)))
    torch.testing.assert_close(total(maps), total(density))
    coarse = unfitted.attribute(x, 1, segments=draw_mask((5, 5)), units=units, upsample="input")
    torch.testing.assert_close(total(coarse), total(density))


def test_single_precision_keeps_the_sum_of_a_million_pixels(images):
    attr = LayerKMeansAttribution(make_net(), "stage3")
    mask = torch.zeros(1, 1, 1024, 1024, dtype=torch.int64)
    mask[..., :300] = 1
    result = attr.explain(images[:2], 1, segments=mask)
    assert result.attribution.dtype == torch.float32
    total = result.attribution.double().sum((1, 2, 3)) + result.bias
    torch.testing.assert_close(total, result.output.double(), rtol=0, atol=2e-7)


@pytest.mark.parametrize("kind", ["fitted", "agnostic"])
@pytest.mark.parametrize("depth", [0, 2])
def test_prototypes_vote_as_without_a_mask(fits, kind, x, depth):
    found = fits[kind].explain(x, segments=draw_mask((8, 8)), depth=depth)
    expected = fits[kind].classify(x, depth=depth)
    assert torch.equal(found.class_scores, expected.scores)
    assert torch.equal(found.prediction, expected.prediction)


def test_no_cluster_is_made_for_a_mask(unfitted, x, monkeypatch):
    monkeypatch.setattr("captum_kmex.explaining.segmentation.cluster_image_rows", None)
    assert unfitted.explain(x, segments=draw_mask((8, 8))).attribution.shape == (N, 1, 8, 8)


REFUSED = {
    "floats": (lambda m: m.float(), TypeError, r"of whole numbers.*convert it, as by mask.long"),
    "array of floats": (lambda m: m.numpy() + 0.5, TypeError, r"mask\.astype\(int\)"),
    "logical": (lambda m: m > 3, TypeError, r"of one mask mask\.long\(\).*; of several, one"),
    "negative": (lambda m: m - 4, ValueError, r"numbers below 0; count segments from 0.*mask\.min"),
    "too large": (lambda m: np.full((8, 6), 2**64 - 1, np.uint64), ValueError, "below 0"),
    "channels": (lambda m: m.expand(-1, 3, -1, -1), ValueError, r"should have the shape \(N, 1, H"),
    "flat": (lambda m: m[0, 0, 0], ValueError, "should have the shape"),
    "empty": (lambda m: m[..., :0], ValueError, "should have the shape"),
    "two masks": (lambda m: m[:2], ValueError, "has 2 masks for 3 images; pass one of each"),
    "a list": (lambda m: m.tolist(), TypeError, "should be a mask"),
    "sparse": (lambda m: m[0, 0].to_sparse(), TypeError, "should be a mask"),
}


@pytest.mark.parametrize("use", ["attribute", "explain"])
@pytest.mark.parametrize(("form", "error", "message"), list(REFUSED.values()), ids=list(REFUSED))
def test_other_masks_are_refused_with_a_remedy(unfitted, x, form, error, message, use):
    with pytest.raises(error, match=rf"^segments\b.*{message}"):
        getattr(unfitted, use)(x, segments=form(draw_mask((8, 6))))


@pytest.mark.parametrize("other", [{"restrict": "predicted"}, {"connected": True}, {"min_area": 2}])
def test_other_ways_to_make_segments_are_refused_beside_a_mask(fits, x, other):
    with pytest.raises(ValueError, match="segments= are taken as they are; leave restrict="):
        fits["fitted"].explain(x, segments=draw_mask((8, 6)), **other)


def test_explainer_takes_a_mask_for_many_questions(unfitted, x):
    mask = draw_mask((9, 9))
    explainer = unfitted.read(x)
    for c in range(3):
        question = explainer.question(c)
        how = explainer.competition(question, None, connected=False, segments=mask)
        density = explainer.density(question, 0, how)
        torch.testing.assert_close(density / 81, unfitted.attribute(x, c, segments=mask))


def test_segments_count_from_zero_in_each_image():
    mask = torch.tensor([[[[7, 7], [2, 9]]], [[[5, 5], [5, 5]]]])
    given = GivenSegments.of(mask, torch.zeros(2, 3))
    assert given.labels.tolist() == [[[1, 1], [0, 2]], [[0, 0], [0, 0]]]
    assert given.named.tolist() == [[2, 7, 9], [5, -1, -1]]


# ---------------------------------------------------------------- kept and drawn


def test_what_is_saved_tells_of_the_mask(unfitted, x, tmp_path):
    mask = draw_mask((8, 6))
    result = unfitted.explain(x, 1, segments=mask)
    result.save(tmp_path / "explained")
    manifest = json.loads((tmp_path / "explained" / "manifest.json").read_text())
    assert manifest["segments_given"] is True
    with np.load(tmp_path / "explained" / "arrays.npz") as arrays:
        assert np.array_equal(arrays["segments"], mask.squeeze(1).numpy())
        for i, image in enumerate(manifest["images"]):
            for row in image["ledger"]:
                inside = arrays["segments"][i] == row["segment"]
                total = arrays["attribution"][i, 0][inside].sum()
                assert row["evidence"] == pytest.approx(total, abs=1e-9)
    again = pickle.loads(pickle.dumps(result))
    assert again.ledger == result.ledger
    assert torch.equal(again.segments, result.segments)
    assert unfitted.explain(x[:1]).manifest()["segments_given"] is False


def test_figures_draw_segments_of_any_numbers_on_any_grid(fits, x):
    mask = draw_mask((40, 24))
    attr = fits["fitted"]
    result, other = (attr.explain(x, c, segments=mask) for c in (0, 1))
    figure, axes = result.plot(figure=Figure(layout="constrained"))
    assert axes[1].get_title() == "5 segments"
    assert axes[1].get_xlabel() == "segments given"
    painted = axes[1].images[0].get_array()
    for rank, row in enumerate(result.ledger[0]):
        inside = mask[0, 0].numpy() == row.segment
        np.testing.assert_allclose(painted[inside], np.tile(segment_color(rank), (inside.sum(), 1)))
    plot_comparison([result, attr.explain(x)], ["mask", "own"], [0, 1], figure=Figure())
    _, axes = plot_contrast(result, other, figure=Figure(layout="constrained"))
    assert axes[0, 2].get_title() == "ledger: bias + segments = difference"
    _, axes = plot_depths([result, attr.explain(x)], figure=Figure(layout="constrained"))
    assert axes[0, 1].get_title() == "segments given"
    figure.canvas.draw()


def test_map_is_what_captum_interpolates_within_the_mask(unfitted, x):
    """The same by torch's own means: resize, restore the mean, average by one-hot products."""
    mask = draw_mask((32, 20))
    density = 16 * ClassifierPrototypes(unfitted.model).attribute(x, 1)
    fine = F.interpolate(density, (32, 20), mode="bilinear")
    fine = fine + density.mean((2, 3), keepdim=True) - fine.mean((2, 3), keepdim=True)
    inside = F.one_hot((mask.squeeze(1) - 3) // FAR, 5).double().flatten(1, 2)
    means = (inside.mT @ fine.flatten(1).unsqueeze(2)) / inside.sum(1).unsqueeze(2)
    expected = (inside @ means).view(N, 1, 32, 20) / 640
    torch.testing.assert_close(unfitted.attribute(x, 1, segments=mask), expected)
