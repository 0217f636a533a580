from __future__ import annotations

import json

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from nets import LAYERS, make_net

from captum_kmex import LayerKMeansAttribution
from captum_kmex.concepts import image_of
from captum_kmex.explaining.ledger import LedgerRow
from captum_kmex.visualization import (
    draw_ledger,
    draw_segments,
    picture,
    plot_comparison,
    plot_contrast,
    segment_color,
    visualize_image_attr,
)

mpl.use("Agg")


@pytest.fixture
def close_figures():
    yield
    plt.close("all")


pytestmark = pytest.mark.usefixtures("close_figures")


def test_picture_stretches_any_normalisation_to_unit_range():
    image = torch.linspace(-3, 7, 300).reshape(3, 10, 10)
    shown = picture(image)
    assert shown.shape == (10, 10, 3)
    assert shown.min() == 0
    assert shown.max() == 1


def test_picture_scales_bytes_and_keeps_floats():
    np.testing.assert_allclose(picture(np.full((2, 2, 3), 255, np.uint8)), 1.0)
    np.testing.assert_allclose(picture(np.full((2, 2), 0.25)), 0.25)


def test_segments_are_drawn_in_their_ledger_colors():
    segments = np.array([[4, 4], [7, 7]])
    rows = [LedgerRow(7, 7, None, 0.5, 2.0), LedgerRow(4, 4, None, 0.5, 1.0)]
    _, ax = plt.subplots()
    draw_segments(segments, rows, np.ones((6, 6)), ax)
    drawn = ax.images[0].get_array()
    np.testing.assert_allclose(drawn[0, 0], segment_color(1))
    np.testing.assert_allclose(drawn[1, 1], segment_color(0))
    assert [text.get_text() for text in ax.texts] == ["1", "2"]


def test_ledger_bars_run_from_the_bias_to_the_logit():
    rows = [LedgerRow(i, i, 0, 0.05, 1.0 - 0.1 * i) for i in range(20)]
    output = 0.5 + sum(row.evidence for row in rows)
    _, ax = plt.subplots()
    draw_ledger(rows, 0.5, output, ax)
    last_segment, total = ax.patches[-2], ax.patches[-1]
    assert last_segment.get_x() + last_segment.get_width() == pytest.approx(output)
    assert total.get_width() == pytest.approx(output)
    assert "8 others" in ax.get_yticklabels()[-2].get_text()


def test_plot_shows_image_segments_map_ledger_and_patches(fitted, images):
    figure, axes = fitted.explain(images).plot(1, dataset=list(images))
    assert len(axes) >= 4 + 3
    assert axes[0].get_title().startswith("class ")
    assert figure.get_figwidth() > 10


@pytest.mark.parametrize("contrast", [None, 1])
def test_plot_of_measured_evidence_begins_with_what_is_left_when_all_is_removed(
    fitted, images, contrast
):
    result = fitted.explain(images[:2], 0, contrast=contrast, evidence="measured")
    total = "logit" if contrast is None else "difference"
    _, axes = result.plot(1)
    panel = axes[3]
    assert panel.get_title() == f"ledger: all removed + segments = {total}"
    names = [label.get_text() for label in panel.get_yticklabels()]
    assert (names[0], names[-1]) == ("all removed", total)
    assert panel.patches[0].get_width() == pytest.approx(float(result.bias[1]))
    order = [row.segment for row in result.ledger[1]]
    said = []
    for word, found in (("enough", result.sufficient(1)), ("needed", result.necessary(1))):
        if found is not None:
            said.append(f"{word}: " + " ".join(str(order.index(s) + 1) for s in found))
    assert panel.get_xlabel() == " · ".join(said)


def test_contrast_of_two_measured_explanations_is_drawn(fitted, images):
    one, other = (fitted.explain(images[:1], c, evidence="measured") for c in (0, 1))
    figure, _ = plot_contrast(one, other, 0)
    assert figure.axes


def test_plot_names_contrast_and_restriction(fitted, images):
    result = fitted.explain(images, 0, contrast=1, restrict="predicted")
    _, axes = result.plot(0, class_names=["a", "b", "c"])
    assert axes[0].get_title().startswith("a, not b")
    assert "own prototypes only" in axes[1].get_title()


def test_plot_leaves_matplotlib_settings_and_figures_alone(images):
    before = dict(mpl.rcParams)
    attr = LayerKMeansAttribution(make_net(), LAYERS, n_clusters=3)
    figure, _ = attr.explain(images).plot()
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == [figure.number]


def test_comparison_draws_one_row_an_image(fitted, images):
    results = [fitted.explain(images, depth=depth) for depth in (2, 0)]
    _, axes = plot_comparison(results, ["B4", "B234"], [0, 5, 7], dataset=list(images), n_patches=2)
    assert axes.shape == (3, 1 + 2 * 4)


def test_image_of_refuses_a_dataset_without_tensors():
    with pytest.raises(TypeError, match="must yield image tensors"):
        image_of([("name", 3)], 0)


def test_saved_measured_evidence_says_so(fitted, images, tmp_path):
    result = fitted.explain(images[:2], evidence="measured")
    result.save(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["evidence"] == "measured"
    for i, image in enumerate(manifest["images"]):
        enough, needed = result.sufficient(i), result.necessary(i)
        assert image["sufficient"] == (None if enough is None else list(enough))
        assert image["necessary"] == (None if needed is None else list(needed))
        for saved, row in zip(image["ledger"], result.ledger[i], strict=True):
            for name in ("removed", "kept", "error"):
                assert saved[name] == getattr(row, name)
            assert saved["ties"] == list(row.ties)


def test_captum_visualiser_gets_the_map_at_the_size_of_the_image(fitted, images):
    maps = fitted.attribute(images, depth=2)
    figure, ax = visualize_image_attr(maps, images, 3)
    assert ax.images[-1].get_array().shape == (16, 16)
    assert figure is ax.figure


def test_captum_visualiser_survives_a_map_of_zeros(images):
    _, ax = visualize_image_attr(torch.zeros(12, 1, 4, 4), images)
    assert "zero everywhere" in ax.get_title()


def test_save_writes_arrays_manifest_and_pictures(fitted, images, tmp_path):
    result = fitted.explain(images[:2])
    result.save(tmp_path / "explained", dataset=list(images))
    with np.load(tmp_path / "explained" / "arrays.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["attribution"], result.attribution.numpy())
        np.testing.assert_array_equal(arrays["segments"], result.segments.numpy())
    manifest = json.loads((tmp_path / "explained" / "manifest.json").read_text())
    assert manifest["schema_version"] == 1
    first = manifest["images"][0]
    total = sum(row["evidence"] for row in first["ledger"]) + first["bias"]
    assert total == pytest.approx(first["output"], abs=1e-5)
    pictures = sorted(path.name for path in (tmp_path / "explained").glob("*.png"))
    assert pictures == ["0000.png", "0001.png"]


def test_save_names_figures_or_leaves_them_out(fitted, images, tmp_path):
    result, place = fitted.explain(images[:2]), tmp_path / "explained"
    result.save(place, names=["cat", "Dog 2"])
    manifest = json.loads((place / "manifest.json").read_text())
    assert [image["picture"] for image in manifest["images"]] == ["cat.png", "Dog 2.png"]
    assert {path.name for path in place.glob("*.png")} == {"cat.png", "Dog 2.png"}
    result.save(place, figures=False)  # in the place of the earlier one
    manifest = json.loads((place / "manifest.json").read_text())
    assert [image["picture"] for image in manifest["images"]] == [None, None]
    assert {path.name for path in place.iterdir()} == {"arrays.npz", "manifest.json"}
    result.save(place)
    assert (place / "0001.png").is_file()
    for names in (["cat"], ["cat", "CAT"]):
        with pytest.raises(ValueError, match="names for 2 figures; give each its own"):
            result.save(place, names=names)
    for name in ("a/b", "", "a\0"):
        with pytest.raises(ValueError, match="is no name of a file"):
            result.save(place, names=["cat", name])


def test_save_replaces_an_earlier_explanation_whole(fitted, images, tmp_path):
    fitted.explain(images[:2]).save(tmp_path / "explained")
    fitted.explain(images[:1]).save(tmp_path / "explained")
    assert len(list((tmp_path / "explained").glob("*.png"))) == 1


def test_saved_figures_show_the_pictures_given(fitted, images, tmp_path):
    shown = [np.zeros((8, 8, 3)) + color for color in ([1, 0, 0], [0, 1, 0])]
    result = fitted.explain(images[:2])
    result.save(tmp_path / "explained", images=shown)
    for i, color in enumerate([[1, 0, 0], [0, 1, 0]]):
        drawn = plt.imread(tmp_path / "explained" / f"{i:04d}.png")[..., :3]
        assert (drawn == color).all(2).mean() > 0.01
    with pytest.raises(ValueError, match="1 images for 2 explanations"):
        result.save(tmp_path / "other", images=shown[:1])
    assert not (tmp_path / "other").exists()


def test_save_refuses_a_folder_with_other_files(fitted, images, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="holds other files"):
        fitted.explain(images[:1]).save(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_save_that_fails_leaves_the_earlier_explanation(fitted, images, tmp_path, monkeypatch):
    result = fitted.explain(images[:1])
    result.save(tmp_path / "explained")
    before = (tmp_path / "explained" / "manifest.json").read_text()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="No space left"):
        result.save(tmp_path / "explained")
    assert (tmp_path / "explained" / "manifest.json").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["explained"]


def test_save_refuses_a_folder_with_a_strangers_manifest(fitted, images, tmp_path):
    (tmp_path / "manifest.json").write_text('{"name": "a web app"}')
    with pytest.raises(FileExistsError, match="holds other files"):
        fitted.explain(images[:1]).save(tmp_path)


def test_save_refuses_a_folder_where_something_was_added(fitted, images, tmp_path):
    result = fitted.explain(images[:1])
    result.save(tmp_path / "explained")
    (tmp_path / "explained" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds other files"):
        result.save(tmp_path / "explained")
    assert (tmp_path / "explained" / "notes.txt").read_text() == "mine"


def test_ledger_of_a_contrast_ends_at_the_difference(fitted, images):
    _, axes = fitted.explain(images, 0, contrast=1).plot(0)
    assert axes[3].get_yticklabels()[-1].get_text() == "difference"
