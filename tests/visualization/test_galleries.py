"""Galleries, embedding planes and confusions: what they show of a fit."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from nets import LAYERS, make_net
from sklearn.decomposition import PCA

from captum_kmex import KMExAttribution, LayerKMeansAttribution
from captum_kmex.metrics.wins import PrototypeWins
from captum_kmex.visualization import (
    picture,
    plot_confusions,
    plot_embeddings,
    plot_prototypes,
    segment_color,
)

mpl.use("Agg")
NAMES = ["ape", "bee", "cat"]
pytestmark = pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewRowsWarning")


@pytest.fixture
def figure():
    return Figure(figsize=(9, 6), layout="constrained")


def fit(images, targets, **options):
    attr = LayerKMeansAttribution(make_net(), LAYERS, n_prototypes=3)
    return attr.fit([(images, targets)], **options)


def texts(ax):
    return " ".join(text.get_text() for text in ax.texts)


def test_gallery_shows_a_class_largest_first_with_its_facts(images, labels, figure):
    attr = fit(images, labels)
    found, axes = plot_prototypes(attr, list(images), 1, class_names=NAMES, figure=figure)
    assert found is figure
    assert not plt.get_fignums()
    book = attr.bank_.codebooks[0]
    own = sorted(book.of_class(1).tolist(), key=lambda k: -book.counts[k])
    assert len(axes) == 3
    for k, line in zip(own, axes, strict=True):
        assert f"bee #{attr.bank_.codebooks[0].of_class(1).tolist().index(k) + 1}" in texts(line[0])
        assert f"{int(book.counts[k])} rows" in texts(line[0])
        assert f"rms distance {book.spread[k] ** 0.5:.2f}" in texts(line[0])


def test_gallery_shows_patches_in_context_and_cropped(images, labels, figure):
    attr = fit(images, labels)
    _, axes = plot_prototypes(attr.bank_, list(images), prototypes=[4], figure=figure)
    found = attr.bank_.codebooks[0].representatives
    for i in range(4):
        context, crop = axes[0, 1 + 2 * i], axes[0, 2 + 2 * i]
        index, (x0, y0, x1, y1) = int(found.indices[4, i]), found.boxes[4, i].tolist()
        assert context.get_title() == f"image {index}, d = {found.distances[4, i]:.2f}"
        np.testing.assert_allclose(context.images[0].get_array(), picture(images[index]))
        box = context.patches[-1]
        assert (*box.get_xy(), box.get_width()) == (x0 - 0.5, y0 - 0.5, x1 - x0)
        shown = crop.images[0].get_array()
        assert shown.shape == (4, 4)  # a quarter of the image
        x, y = crop.patches[-1].get_xy()
        inside = shown[int(y + 0.5) : int(y + 0.5) + y1 - y0, int(x + 0.5) : int(x + 0.5) + x1 - x0]
        np.testing.assert_allclose(inside, picture(images[index])[y0:y1, x0:x1])


def test_gallery_of_class_agnostic_prototypes_has_their_classes(images, labels, figure):
    attr = fit(images, labels, labels=None)
    membership = attr.bank_.codebooks[0].membership
    _, axes = plot_prototypes(attr, list(images), prototypes=[1], class_names=NAMES, figure=figure)
    shares, order = membership[1].sort(descending=True, stable=True)
    widths = [bar.get_width() for bar in axes[0, 1].patches]
    np.testing.assert_allclose(widths, shares.numpy())
    assert texts(axes[0, 1]).startswith(f"{NAMES[order[0]]} {shares[0]:.0%}")


def test_gallery_of_a_class_in_a_class_agnostic_bank_has_those_it_owns(images, labels, figure):
    attr = fit(images, labels, labels=None)
    owner = attr.bank_.codebooks[0].membership.argmax(1)
    c = int(owner.mode().values)
    _, axes = plot_prototypes(attr, list(images), c, figure=figure)
    assert len(axes) == int((owner == c).sum())


def test_gallery_of_whole_images_has_no_crops(images, labels, figure):
    attr = KMExAttribution(make_net(), n_prototypes=1).fit([(images, labels)])
    _, axes = plot_prototypes(attr, list(images), 0, n_patches=2, figure=figure)
    assert axes.shape == (1, 1 + 2)


def test_gallery_finds_a_depth_by_name(images, labels, figure):
    attr = fit(images, labels)
    _, axes = plot_prototypes(attr, list(images), 0, depth="stage3", figure=figure)
    book = attr.bank_.codebooks[2]
    assert f"{int(book.counts[book.of_class(0)].max())} rows" in texts(axes[0, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "pass class_index"),
        ({"class_index": 9}, r"class 9 has no prototypes; the bank has classes \[0, 1, 2\]"),
        ({"prototypes": [1, 99]}, r"prototypes \[99\] are out of range for 9"),
        ({"prototypes": []}, "prototypes is empty"),
        ({"class_index": 0, "depth": "stage9"}, "depth='stage9' is not one of the 3 layers"),
    ],
)
def test_gallery_refuses_what_is_not_there(images, labels, options, message):
    with pytest.raises(ValueError, match=message):
        plot_prototypes(fit(images, labels), list(images), **options)


def test_gallery_needs_representatives(images, labels):
    with pytest.raises(ValueError, match="fit with n_representatives > 0"):
        plot_prototypes(fit(images, labels, n_representatives=0), list(images), 0)


def embeddings(seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(60) % 3
    centres = 4 * torch.eye(3, 8)
    return centres[labels] + 0.3 * torch.randn(60, 8, generator=generator), labels, centres


def test_plane_of_pca_projects_prototypes_with_the_rows():
    rows, labels, centres = embeddings()
    marks = {"centre": (centres, torch.arange(3)), "two": (centres[1:], torch.tensor([1, 2]))}
    ax = Figure().subplots()
    found, same = plot_embeddings(rows, labels, marks, ax=ax)
    assert (found, same) == (ax.figure, ax)
    pca = PCA(2, random_state=0).fit(rows.numpy())
    points, first, second = (part.get_offsets() for part in ax.collections)
    np.testing.assert_allclose(points, pca.transform(rows.numpy()), atol=1e-4)
    np.testing.assert_allclose(first, pca.transform(centres.numpy()), atol=1e-4)
    np.testing.assert_allclose(second, first[1:], atol=1e-4)
    assert ax.get_xlabel() == f"first component, {pca.explained_variance_ratio_[0]:.0%}"


def test_plane_colors_rows_and_prototypes_by_class_and_names_them():
    rows, labels, centres = embeddings()
    ax = Figure().subplots()
    mark = {"c": (centres, torch.arange(3))}
    plot_embeddings(rows, labels, mark, class_names=NAMES, ax=ax)
    points, marks = ax.collections
    expected = [to_rgba(segment_color(c)) for c in range(3)]
    np.testing.assert_allclose(marks.get_facecolor(), expected)
    np.testing.assert_allclose(points.get_facecolor()[:3, :3], np.array(expected)[:, :3])
    legends = [part for part in ax.get_children() if isinstance(part, Legend)]
    written = [[text.get_text() for text in legend.get_texts()] for legend in legends]
    assert sorted(written) == sorted([["c"], NAMES])


@pytest.mark.parametrize("projection", ["pca", "tsne"])
def test_legends_stand_in_the_figure_beside_the_plane(projection):
    rows, labels, centres = embeddings()
    figure = Figure(figsize=(5, 4), layout="constrained")
    ax = figure.subplots()
    mark = {"c": (centres, torch.arange(3))}
    plot_embeddings(rows, labels, mark, projection=projection, ax=ax)
    FigureCanvasAgg(figure).draw()  # a figure without a canvas is never laid out
    legends = [part for part in ax.get_children() if isinstance(part, Legend)]
    assert len(legends) == (2 if projection == "pca" else 1)
    for legend in legends:
        box = legend.get_window_extent()
        assert not ax.bbox.overlaps(box)
        assert figure.bbox.contains(box.x0, box.y0)
        assert figure.bbox.contains(box.x1, box.y1)


def test_plane_of_tsne_keeps_prototypes_with_their_class():
    rows, labels, centres = embeddings()
    ax = Figure().subplots()
    plot_embeddings(rows, labels, {"c": (centres, torch.arange(3))}, projection="tsne", ax=ax)
    points, marks = (np.asarray(part.get_offsets()) for part in ax.collections)
    for c, mark in enumerate(marks):
        nearest = np.linalg.norm(points - mark, axis=1).argmin()
        assert labels[nearest] == c
    assert [text.get_text() for text in ax.texts] == ["0", "1", "2"]


def test_plane_without_axes_is_a_new_figure():
    rows, labels, _ = embeddings()
    figure, ax = plot_embeddings(rows, labels)
    assert plt.get_fignums() == [figure.number]
    assert ax.figure is figure
    plt.close(figure)


def test_plane_refuses_prototypes_of_another_space():
    rows, labels, _ = embeddings()
    with pytest.raises(ValueError, match=r"prototypes 'c' must be \(K, 8\).*got \(2, 5\)"):
        plot_embeddings(rows, labels, {"c": (torch.zeros(2, 5), torch.arange(2))})
    with pytest.raises(ValueError, match="projection='umap' is unknown"):
        plot_embeddings(rows, labels, projection="umap")


WINS = PrototypeWins(
    counts=torch.tensor([[60, 20, 0, 20], [0, 30, 50, 20], [10, 0, 0, 90]]),
    membership=torch.tensor([0, 0, 1, 2]),
)


def test_confusions_write_the_share_of_each_cell(figure):
    found, (matrix, _) = plot_confusions(WINS, class_names=NAMES, figure=figure)
    assert found is figure
    written = [text.get_text() for text in matrix.texts]
    assert written == ["80", "0", "20", "30", "50", "20", "10", "0", "90"]
    assert [label.get_text() for label in matrix.get_yticklabels()] == NAMES
    np.testing.assert_allclose(matrix.images[0].get_array()[1], [30, 50, 20])


def test_confusions_list_prototypes_by_their_share_of_foreign_pixels(figure):
    _, (_, bars) = plot_confusions(WINS, class_names=NAMES, n_prototypes=3, figure=figure)
    labels = [label.get_text() for label in bars.get_yticklabels()]
    assert labels == ["ape #2", "cat #1", "ape #1"]
    np.testing.assert_allclose(
        [bar.get_width() for bar in bars.patches], [60, 100 * 40 / 130, 100 / 7]
    )
    assert bars.texts[0].get_text() == "60 %, most of bee"


def test_confusions_of_many_classes_have_a_color_bar_for_numbers(figure):
    wins = PrototypeWins(torch.eye(20, dtype=torch.int64), torch.arange(20))
    plot_confusions(wins, figure=figure)
    assert len(figure.axes) == 3
    assert not figure.axes[0].texts
