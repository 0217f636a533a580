"""Whole figures of explanations and maps: their contents, scales and sums."""

from __future__ import annotations

import re

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from nets import LAYERS, make_net

from captum_kmex import ClassifierPrototypes, LayerKMeansAttribution
from captum_kmex.visualization import (
    density,
    evidence_scale,
    plot_comparison,
    plot_contrast,
    plot_depths,
    plot_explanation,
    plot_methods,
)
from captum_kmex.visualization.explanations import contrasted

mpl.use("Agg")


@pytest.fixture
def unfitted():
    return LayerKMeansAttribution(make_net(), LAYERS, n_clusters=4)


@pytest.fixture
def figure():
    return Figure(figsize=(9, 6), layout="constrained")


def drawn_map(ax):
    return ax.images[0]


def draw_all(fitted, images, figures):
    """Draw each kind of figure into one of the given ones."""
    result, other = fitted.explain(images, 0), fitted.explain(images, 1)
    maps = {"ours": result.attribution}
    return [
        plot_explanation(result, figure=figures[0]),
        plot_comparison([result], ["B234"], [0, 1], dataset=list(images), figure=figures[1]),
        plot_depths([fitted.explain(images, depth=d) for d in (2, 1, 0)], figure=figures[2]),
        plot_contrast(result, other, figure=figures[3]),
        plot_methods(images, maps, figure=figures[4]),
    ]


def test_figures_are_drawn_where_they_are_asked_for(fitted, images):
    before, settings = plt.get_fignums(), dict(mpl.rcParams)
    figures = [Figure(layout="constrained") for _ in range(5)]
    for (found, axes), given in zip(draw_all(fitted, images, figures), figures, strict=True):
        assert found is given
        assert all(ax.figure is given for ax in np.ravel(axes))
    assert plt.get_fignums() == before
    assert dict(mpl.rcParams) == settings


def test_figures_fill_subfigures(fitted, images, figure):
    parts = figure.subfigures(5, 1)
    for (found, axes), part in zip(draw_all(fitted, images, parts), parts, strict=True):
        assert found is figure
        assert np.ravel(axes)[0].figure is part


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(28, 28), (16, 64), (64, 16)])
def test_nothing_stands_outside_a_new_figure(unfitted, height, width):
    images = torch.rand(2, 1, height, width, generator=torch.Generator().manual_seed(0))
    result, other = unfitted.explain(images, 0), unfitted.explain(images, 1)
    found = [
        result.plot()[0],
        plot_contrast(result, other)[0],
        plot_methods(images, {"a": result.attribution, "b": other.attribution})[0],
        plot_depths([unfitted.explain(images, depth=d) for d in (2, 1, 0)])[0],
    ]
    for new in found:
        new.canvas.draw()
        (left, bottom), (right, top) = new.get_tightbbox().get_points()
        assert left > -0.02
        assert bottom > -0.02
        assert right < new.get_figwidth() + 0.02
        assert top < new.get_figheight() + 0.02
        plt.close(new)


def test_map_has_the_scale_that_was_given(unfitted, images, figure):
    result = unfitted.explain(images)
    scale = evidence_scale(result.attribution)
    _, axes = result.plot(2, scale=scale, figure=figure)
    assert drawn_map(axes[2]).get_clim() == (-scale, scale)
    np.testing.assert_allclose(drawn_map(axes[2]).get_array(), density(result.attribution[2]))


def test_map_alone_has_its_own_scale(unfitted, images, figure):
    result = unfitted.explain(images)
    _, axes = result.plot(2, figure=figure)
    assert drawn_map(axes[2]).get_clim()[1] == pytest.approx(
        np.abs(density(result.attribution[2])).max()
    )


def test_patches_are_framed_in_the_color_of_their_segment(fitted, images, figure):
    result = fitted.explain(images)
    _, axes = result.plot(0, dataset=list(images), figure=figure)
    colors = np.asarray(drawn_map(axes[1]).get_array())
    segments = result.segments[0].numpy()
    for ax in axes[4:]:
        rank = int(re.match(r"(\d+):", ax.get_title()).group(1)) - 1
        y, x = np.argwhere(segments == result.ledger[0][rank].segment)[0]
        np.testing.assert_allclose(ax.spines["top"].get_edgecolor()[:3], colors[y, x])


@pytest.mark.parametrize("scale", ["each", "shared"])
def test_comparison_scales_are_shared_over_images_and_depths_or_not(fitted, images, figure, scale):
    results = [fitted.explain(images, depth=depth) for depth in (2, 0)]
    _, axes = plot_comparison(results, ["B4", "B234"], [0, 5, 7], scale=scale, figure=figure)
    tops = {drawn_map(axes[i, j]).get_clim()[1] for i in range(3) for j in (2, 4)}
    assert len(tops) == (1 if scale == "shared" else 6)
    assert max(tops) == pytest.approx(
        evidence_scale([r.attribution[i] for r in results for i in (0, 5, 7)])
    )


def test_comparison_names_classes(fitted, images, figure):
    result = fitted.explain(images, 1)
    _, axes = plot_comparison([result], ["B234"], [3], class_names=["a", "b", "c"], figure=figure)
    assert axes[0, 0].get_ylabel() == "b"


def test_depths_share_a_scale_and_write_sums_that_are_the_logit(unfitted, images, figure):
    results = [unfitted.explain(images, depth=depth) for depth in (2, 1, 0)]
    _, axes = plot_depths(results, 4, names=["B4", "B34", "B234"], figure=figure)
    assert axes.shape == (2, 4)
    assert [ax.get_title() for ax in axes[0, 1:]] == ["B4", "B34", "B234"]
    assert len({drawn_map(ax).get_clim() for ax in axes[1, 1:]}) == 1
    for ax, result in zip(axes[1, 1:], results, strict=True):
        written = ax.child_axes[0].get_xlabel()
        total, logit = map(float, re.search(r"= (\S+) \(logit (\S+)\)", written).groups())
        assert total == logit == pytest.approx(result.output[4].item(), abs=0.006)
        assert drawn_map(ax).get_array().shape == result.attribution.shape[2:]


@pytest.mark.parametrize("is_fitted", [True, False])
def test_contrast_of_two_explanations_is_the_explanation_of_their_contrast(
    fitted, unfitted, images, is_fitted
):
    attr = fitted if is_fitted else unfitted
    found = contrasted(attr.explain(images, 2), attr.explain(images, 0), -1)
    expected = attr.explain(images[-1:], 2, contrast=0)
    torch.testing.assert_close(found.attribution, expected.attribution)
    torch.testing.assert_close(found.output, expected.output)
    torch.testing.assert_close(found.bias, expected.bias)
    ours = {row.segment: row.evidence for row in found.ledger[0]}
    for row in expected.ledger[0]:
        assert ours[row.segment] == pytest.approx(row.evidence, abs=1e-5)
    sizes = [abs(row.evidence) for row in found.ledger[0]]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("scale", ["each", "shared"])
def test_contrast_draws_both_maps_and_their_difference(unfitted, images, figure, scale):
    target, other = unfitted.explain(images, 2), unfitted.explain(images, 0)
    names = ["a", "b", "c"]
    _, axes = plot_contrast(target, other, 3, class_names=names, scale=scale, figure=figure)
    first, second, difference = (drawn_map(ax) for ax in axes[1])
    np.testing.assert_allclose(
        difference.get_array(), first.get_array() - second.get_array(), atol=1e-5
    )
    assert first.get_clim() == second.get_clim()
    assert (difference.get_clim() == first.get_clim()) == (scale == "shared")
    assert axes[1, 2].get_title().startswith("c minus a: ")
    output = float(target.output[3] - other.output[3])
    assert axes[0, 2].patches[-1].get_width() == pytest.approx(output, abs=1e-5)


def test_contrast_refuses_other_segments(fitted, images):
    restricted = fitted.explain(images, 0, restrict="predicted")
    with pytest.raises(ValueError, match="different segments"):
        plot_contrast(restricted, fitted.explain(images, 1, restrict="predicted"))


def test_contrast_refuses_a_difference(unfitted, images):
    both = unfitted.explain(images, 0, contrast=1)
    with pytest.raises(ValueError, match="a difference already"):
        plot_contrast(both, unfitted.explain(images, 1))


def methods(images):
    net = make_net()
    return {
        "columns": ClassifierPrototypes(net).attribute(images),
        "layers": LayerKMeansAttribution(net, LAYERS, n_clusters=4).attribute(images),
        "any": torch.randn(len(images), 3, 16, 16, generator=torch.Generator().manual_seed(0)),
    }


@pytest.mark.parametrize(("scale", "count"), [("each", 9), ("method", 3), ("shared", 1)])
def test_methods_have_as_many_scales_as_asked_for(images, figure, scale, count):
    _, axes = plot_methods(images[:3], methods(images[:3]), scale=scale, figure=figure)
    assert axes.shape == (3, 4)
    tops = [[drawn_map(ax).get_clim()[1] for ax in line[1:]] for line in axes]
    assert len({top for line in tops for top in line}) == count
    if scale == "method":
        assert all(len(set(column)) == 1 for column in zip(*tops, strict=True))


def test_methods_keep_their_grids_and_add_channels(images, figure):
    maps = methods(images[:2])
    _, axes = plot_methods(images[:2], maps, names=["x", "y"], figure=figure)
    for ax, found in zip(axes[1, 1:], maps.values(), strict=True):
        expected = found[1].double().sum(0) * found[1, 0].numel()
        np.testing.assert_allclose(drawn_map(ax).get_array(), expected)
    assert [ax.get_title() for ax in axes[0]] == ["input", *maps]
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["x", "y"]


def test_methods_take_pictures(images, figure):
    maps = {"columns": ClassifierPrototypes(make_net()).attribute(images[:1])}
    photograph = np.random.default_rng(0).random((32, 48, 3))
    _, axes = plot_methods([photograph], maps, figure=figure)
    np.testing.assert_allclose(axes[0, 0].images[0].get_array(), photograph)


def test_methods_refuse_another_number_of_maps(images):
    with pytest.raises(ValueError, match=r"maps of 'a' must be \(N, C, h, w\) with N = 2"):
        plot_methods(images[:2], {"a": torch.zeros(3, 1, 4, 4)})
