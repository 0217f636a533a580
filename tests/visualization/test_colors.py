"""Colours against an independent simulation of colour blindness and CIELAB."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from skimage.color import rgb2lab

from captum_kmex.visualization import segment_colors
from captum_kmex.visualization.colors import (
    DIVERGING,
    NEGATIVE,
    PALETTE,
    POSITIVE,
    SEQUENTIAL,
    palette_distances,
    segment_color,
)

# Vienot, Brettel & Mollon (1999), on linear RGB: not the simulation that chose the palette
VIENOT = {
    "protanope": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
    "deuteranope": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
}


def seen(colors, vision):
    """Return colours (n, 3) in CIELAB as a kind of vision sees them."""
    colors = np.asarray(colors, dtype=float)
    if vision == "normal":
        return rgb2lab(colors[None])[0]
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.array(VIENOT[vision]).T, 0, 1)
    back = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return rgb2lab(back[None])[0]


def least_gap(colors, vision):
    lab = seen(colors, vision)
    gaps = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    return gaps[~np.eye(len(lab), dtype=bool)].min()


VISIONS = ["normal", *VIENOT]


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize(("count", "gap"), [(7, 8), (12, 8), (20, 6), (40, 3)])
def test_palette_is_told_apart_by_any_vision(vision, count, gap):
    # 2.3 is the least difference in CIELAB that is noticed (Mahy et al., 1994)
    assert least_gap([to_rgb(name) for name in PALETTE[:count]], vision) > gap


def test_palette_distances_are_symmetric_and_positive():
    gaps = palette_distances()
    np.testing.assert_allclose(gaps, gaps.T)
    assert gaps[~np.eye(len(gaps), dtype=bool)].min() > 4
    np.testing.assert_allclose(np.diag(gaps), 0)


def test_palette_repeats_after_its_last_color():
    assert segment_color(len(PALETTE) + 3) == segment_color(3)


def mosaic(n_segments, size=40, seed=0):
    """Return the cells nearest to random points."""
    points = np.random.default_rng(seed).random((n_segments, 2)) * size
    grid = np.stack(np.mgrid[:size, :size], -1).reshape(-1, 1, 2)
    return np.linalg.norm(grid - points, axis=-1).argmin(1).reshape(size, size)


def touching(segments):
    pairs = [(segments[:, :-1], segments[:, 1:]), (segments[:-1], segments[1:])]
    found = {(a, b) for x, y in pairs for a, b in zip(x.flat, y.flat, strict=True) if a != b}
    return sorted(found)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize(("count", "gap"), [(8, 8), (20, 6), (40, 5)])
def test_neighbouring_segments_are_told_apart_by_any_vision(seed, vision, count, gap):
    segments = mosaic(count, seed=seed)
    colors = seen(segment_colors(segments, range(count)), vision)
    gaps = [np.linalg.norm(colors[a] - colors[b]) for a, b in touching(segments)]
    assert min(gaps) > gap


@pytest.mark.parametrize("count", [8, 20, 40])
def test_segments_have_each_their_own_color(count):
    assert len(set(segment_colors(mosaic(count), range(count)))) == count


def test_more_segments_than_colors_still_differ_from_their_neighbours():
    segments = mosaic(90, size=60)
    colors = segment_colors(segments, range(90))
    assert all(colors[a] != colors[b] for a, b in touching(segments))


def test_leading_segments_have_the_same_colors_in_every_image():
    order = np.random.default_rng(3).permutation(30).tolist()
    found = segment_colors(mosaic(30), order)
    assert found[:12] == [segment_color(rank) for rank in range(12)]


def test_one_segment_has_the_first_color():
    assert segment_colors(np.full((3, 4), 7), [7]) == [segment_color(0)]


def test_evidence_is_white_at_zero_and_ends_in_the_colors_of_the_ledger():
    np.testing.assert_allclose(DIVERGING(0.5)[:3], 0.97, atol=0.01)
    np.testing.assert_allclose(DIVERGING(1.0)[:3], to_rgb(POSITIVE), atol=0.01)
    np.testing.assert_allclose(DIVERGING(0.0)[:3], to_rgb(NEGATIVE), atol=0.01)


@pytest.mark.parametrize("vision", VISIONS)
def test_more_evidence_is_darker_where_there_is_none_against(vision):
    lightness = seen(SEQUENTIAL(np.linspace(0, 1, 20))[:, :3], vision)[:, 0]
    assert (np.diff(lightness) < 0).all()
    np.testing.assert_allclose(SEQUENTIAL(1.0)[:3], DIVERGING(1.0)[:3], atol=0.01)
    np.testing.assert_allclose(SEQUENTIAL(0.0)[:3], DIVERGING(0.5)[:3], atol=0.01)


@pytest.mark.parametrize("vision", VISIONS)
def test_evidence_for_and_against_differ_for_any_vision(vision):
    assert least_gap([to_rgb(POSITIVE), to_rgb(NEGATIVE)], vision) > 20
    assert least_gap([DIVERGING(0.3)[:3], DIVERGING(0.7)[:3]], vision) > 20
