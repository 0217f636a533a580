"""What one axes shows: values, scales, borders, boxes; and nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from captum_kmex.explaining.ledger import LedgerRow, Patch
from captum_kmex.visualization import (
    density,
    draw_crop,
    draw_ledger,
    draw_map,
    draw_patch,
    draw_scale,
    draw_segments,
    evidence_scale,
    picture,
    segment_color,
    visualize_image_attr,
)
from captum_kmex.visualization.colors import NEGATIVE, POSITIVE, SEQUENTIAL
from captum_kmex.visualization.panels import has_signs, panel_scales

mpl.use("Agg")


@pytest.fixture
def ax():
    return Figure().subplots()


def test_density_has_the_mean_that_the_map_has_as_its_sum():
    maps = torch.randn(3, 5, 7)
    assert density(maps).mean() == pytest.approx(maps.double().sum().item())


def test_scale_is_shared_by_grids_of_any_size():
    coarse = torch.tensor([[[3.0, 1.0]]])
    fine = coarse.repeat_interleave(2, 1).repeat_interleave(2, 2) / 4
    assert evidence_scale([coarse]) == pytest.approx(evidence_scale([fine]))
    assert evidence_scale([coarse]) == pytest.approx(6)


def test_scale_of_zero_maps_is_one():
    assert evidence_scale(torch.zeros(2, 1, 3, 3)) == 1


def test_scale_refuses_nan():
    with pytest.raises(ValueError, match="NaN or Inf"):
        evidence_scale(torch.full((1, 1, 2, 2), torch.nan))


def test_percentile_leaves_outliers_out():
    maps = torch.ones(1, 1, 10, 10)
    maps[0, 0, 0, 0] = 50
    assert evidence_scale(maps, 95) == pytest.approx(100)


def test_panel_scales_are_shared_each_or_given():
    maps = [torch.full((1, 1, 1), 2.0), torch.full((1, 1, 1), -5.0), torch.zeros(1, 1, 1)]
    assert panel_scales(maps, "shared") == [5, 5, 5]
    assert panel_scales(maps, "each") == [2, 5, 1]
    assert panel_scales(maps, 7) == [7, 7, 7]
    with pytest.raises(ValueError, match="scale='both' is unknown"):
        panel_scales(maps, "both")


@pytest.mark.parametrize("shape", [(28, 28), (20, 60), (60, 20, 3)])
def test_map_keeps_its_values_and_covers_the_picture(ax, shape):
    values = np.arange(12.0).reshape(3, 4) - 6
    drawn = draw_map(values, np.ones(shape), ax, 8.0)
    np.testing.assert_allclose(drawn.get_array(), values)
    assert drawn.get_clim() == (-8, 8)
    assert drawn.get_extent() == ax.images[1].get_extent() == [
        -0.5, shape[1] - 0.5, shape[0] - 0.5, -0.5
    ]  # fmt: skip
    assert ax.get_xlim() == (-0.5, shape[1] - 0.5)


def test_map_is_white_at_zero_whatever_its_values(ax):
    drawn = draw_map(np.array([[0.0, 3.0]]), np.ones((4, 8)), ax, 3.0)
    np.testing.assert_allclose(drawn.to_rgba(0.0)[:3], 0.97, atol=0.01)


def test_shade_is_dark_where_the_photograph_is(ax):
    photograph = np.stack([np.linspace(0, 1, 8)] * 4)
    photograph[0] = photograph[-1] = 0.5
    draw_map(np.zeros((2, 2)), photograph, ax, 1.0)
    shade = ax.images[1].get_array()[..., 3]
    assert shade[1, 0] > shade[1, 4] > shade[1, 7] == 0


def test_shade_of_a_drawing_on_black_leaves_its_ground_clear(ax):
    digit = np.zeros((8, 8))
    digit[3:5, 3:5] = 1
    draw_map(np.zeros((2, 2)), digit, ax, 1.0)
    shade = ax.images[1].get_array()[..., 3]
    assert shade[0, 0] == 0
    assert shade[3, 3] > 0.1


def test_scale_bar_names_zero_and_both_ends(ax):
    bar = draw_scale(draw_map(np.diag([-1.0, 1.0]), np.ones((4, 4)), ax, 12.5), "logit")
    assert [text.get_text() for text in bar.get_xticklabels()] == ["-12.5", "0", "+12.5"]
    assert bar.get_xlabel() == "logit"


def test_map_without_evidence_against_is_drawn_from_zero_on(ax):
    drawn = draw_map(np.array([[0.0, 2.0]]), np.ones((4, 4)), ax, 12.5)
    assert drawn.get_cmap() is SEQUENTIAL
    assert drawn.get_clim() == (0, 12.5)
    bar = draw_scale(drawn, "logit")
    assert [text.get_text() for text in bar.get_xticklabels()] == ["0", "+12.5"]


@pytest.mark.parametrize(("least", "is_signed"), [(-0.2, True), (-0.05, False), (0.0, False)])
def test_blue_is_drawn_where_it_can_be_seen(least, is_signed):
    values = [np.array([[0.0, 3.0]]), np.array([[least, 1.0]])]
    assert has_signs(values, [10.0, 10.0]) is is_signed


def test_smooth_map_holds_the_same_values(ax):
    values = np.arange(4.0).reshape(2, 2)
    drawn = draw_map(values, np.ones((8, 8)), ax, 3.0, smooth=True)
    assert drawn.get_interpolation() == "bilinear"
    np.testing.assert_array_equal(drawn.get_array(), values)


def test_outlines_run_between_segments(ax):
    segments = np.array([[0, 0], [0, 1]])
    rows = [LedgerRow(i, i, None, 0.5, 1.0) for i in range(2)]
    draw_segments(segments, rows, np.ones((10, 20)), ax)
    (lines,) = ax.collections
    found = sorted(tuple(map(tuple, line.tolist())) for line in lines.get_segments())
    assert found == [((9.5, 4.5), (9.5, 9.5)), ((9.5, 4.5), (19.5, 4.5))]


def test_numbers_stand_in_their_segments_and_not_on_each_other(ax):
    segments = np.random.default_rng(0).integers(0, 30, (28, 28))
    rows = [LedgerRow(i, i, None, 1 / 30, 1.0) for i in range(30)]
    draw_segments(segments, rows, np.ones((224, 224)), ax)
    assert 2 <= len(ax.texts) <= 12
    places = np.array([text.get_position() for text in ax.texts])
    for text, (x, y) in zip(ax.texts, places, strict=True):
        assert segments[int((y + 0.5) // 8), int((x + 0.5) // 8)] == int(text.get_text()) - 1
    apart = np.abs(places[:, None] - places[None]).max(-1)
    assert apart[~np.eye(len(places), dtype=bool)].min() >= 0.075 * 224


def test_every_leading_row_has_its_number_with_a_line_where_its_segment_has_no_room(ax):
    segments = np.full((20, 20), 12)
    segments[0, :12] = np.arange(12)  # single cells in a row
    rows = [LedgerRow(i, i, None, 1 / 400, 1.0) for i in range(13)]
    draw_segments(segments, rows, np.ones((100, 100)), ax)
    assert [text.get_text() for text in ax.texts] == [str(i) for i in range(1, 13)]
    places = np.array([text.get_position() for text in ax.texts])
    apart = np.abs(places[:, None] - places[None]).max(-1)
    assert apart[~np.eye(12, dtype=bool)].min() >= 0.075 * 100 - 1e-9
    lines = [line.get_xydata() for line in ax.lines[::2]]
    assert lines
    for start, end in lines:
        number = int(np.abs(places - end).max(1).argmin())
        assert segments[int((start[1] + 0.5) // 5), int((start[0] + 0.5) // 5)] == number


def ledger(evidence):
    return [LedgerRow(i, i, None, 0.1, value) for i, value in enumerate(evidence)]


def test_each_ledger_bar_begins_where_the_one_before_ended(ax):
    evidence = [2.0, -1.5, 1.0, -0.25]
    draw_ledger(ledger(evidence), -0.5, 0.75, ax)
    first, *bars, total = ax.patches
    level = -0.5
    assert (first.get_x(), first.get_width()) == (0, -0.5)
    for bar, value in zip(bars, evidence, strict=True):
        assert bar.get_x() == pytest.approx(level)
        assert bar.get_width() == pytest.approx(value)
        assert bar.get_facecolor()[:3] == to_rgb(POSITIVE if value > 0 else NEGATIVE)
        level += value
    assert (total.get_x(), total.get_width()) == (0, pytest.approx(level))


def test_measured_ledger_has_whiskers_where_its_bars_end_and_pale_bars_near_none(ax):
    evidence, errors = [2.0, -1.5, 0.25], [0.5, 0.25, 1.0]
    rows = [replace(row, error=error) for row, error in zip(ledger(evidence), errors, strict=True)]
    draw_ledger(rows, 1.0, 1.75, ax, base="all removed")
    assert [label.get_text() for label in ax.get_yticklabels()][::4] == ["all removed", "logit"]
    ends, level = [], 1.0
    for value, error in zip(evidence, errors, strict=True):
        level += value
        ends.append((level - error, level + error))
    whiskers = [box.lines[2][0] for box in ax.containers if isinstance(box, ErrorbarContainer)]
    spans = [whisker.get_segments()[0][:, 0] for whisker in whiskers]
    np.testing.assert_allclose(spans, ends)
    assert [bar.get_alpha() is None or bar.get_alpha() == 1 for bar in ax.patches[1:4]] == [
        True,
        True,
        False,
    ]


def test_small_numbers_of_a_ledger_have_more_digits(ax):
    draw_ledger(ledger([0.012, 0.003]), 0.0, 0.015, ax)
    assert [text.get_text() for text in ax.texts] == ["+0.000", "+0.012", "+0.003", "+0.015"]


def test_patch_is_boxed_where_it_is_and_framed_in_its_color(ax):
    draw_patch(Patch(1, (4, 8, 6, 12), 0.5), list(torch.rand(3, 1, 16, 20)), segment_color(2), ax)
    box = ax.patches[-1]
    assert (*box.get_xy(), box.get_width(), box.get_height()) == (3.5, 7.5, 2, 4)
    assert box.get_edgecolor()[:3] == segment_color(2)
    assert all(spine.get_edgecolor()[:3] == segment_color(2) for spine in ax.spines.values())


def test_crop_shows_the_patch_with_its_box_in_place(ax):
    image = torch.rand(1, 16, 20)
    draw_crop(Patch(0, (18, 8, 20, 10), 0.5), [image], segment_color(0), ax, context=0.5)
    shown = ax.images[0].get_array()
    np.testing.assert_allclose(shown, picture(image)[5:13, 10:20])
    assert ax.patches[-1].get_xy() == (18 - 10 - 0.5, 8 - 5 - 0.5)


METHODS = ["heat_map", "blended_heat_map", "original_image", "masked_image", "alpha_scaling"]
SIGNS = ["positive", "negative", "absolute_value", "all"]


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("channels", [1, 3])
def test_captum_draws_every_method_and_sign(method, sign, channels):
    if method in ("masked_image", "alpha_scaling") and sign == "all":
        pytest.skip("Captum refuses it: these methods show no signs")
    images, maps = torch.rand(2, channels, 12, 18), torch.randn(2, 1, 3, 4)
    figure, ax = visualize_image_attr(maps, images, 1, method=method, sign=sign)
    assert ax.images[-1].get_array().shape[:2] == (12, 18)
    assert not ax.get_title()
    assert figure is ax.figure
    assert not plt.get_fignums()


@pytest.mark.parametrize("method", ["masked_image", "alpha_scaling"])
def test_captum_shows_positive_values_where_it_cannot_show_signs(method):
    _, ax = visualize_image_attr(torch.ones(1, 1, 2, 2), torch.rand(1, 3, 8, 8), method=method)
    assert not ax.get_title()


@pytest.mark.parametrize(("sign", "value"), [("positive", -1.0), ("negative", 1.0)])
def test_captum_gets_the_picture_where_a_map_lacks_the_sign(sign, value):
    maps = torch.full((1, 1, 2, 2), value)
    _, ax = visualize_image_attr(maps, torch.rand(1, 3, 8, 8), sign=sign)
    assert ax.get_title() == f"the map is nowhere {sign}"


def test_captum_draws_signed_maps_in_our_colors():
    maps = torch.tensor([[[[-1.0, 1.0]]]])
    _, ax = visualize_image_attr(maps, torch.rand(1, 1, 4, 8), method="heat_map")
    left, right = ax.images[0].to_rgba(np.array([-1.0, 1.0]))[:, :3]
    np.testing.assert_allclose(left, to_rgb(NEGATIVE), atol=0.01)
    np.testing.assert_allclose(right, to_rgb(POSITIVE), atol=0.01)
