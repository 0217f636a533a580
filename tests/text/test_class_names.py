"""The same names in plot, report and command line, in whichever form they are given."""

from __future__ import annotations

import itertools
import json
import warnings
from collections import OrderedDict
from unicodedata import normalize

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.text import Text
from nets import LAYERS, make_net
from tiny import GREY, draw, make_model
from workplace import answer_of, error_of

from captum_kmex import LayerKMeansAttribution
from captum_kmex.exceptions import MissingGlyphWarning
from captum_kmex.loading.class_names import names_of_file
from captum_kmex.metrics.wins import prototype_wins
from captum_kmex.report import write_report
from captum_kmex.text.class_names import class_name, read_class_names
from captum_kmex.visualization import (
    plot_comparison,
    plot_confusions,
    plot_contrast,
    plot_depths,
    plot_embeddings,
    plot_prototypes,
)
from captum_kmex.visualization.lettering import fitted

pytestmark = pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewRowsWarning")

NAMES = ("north-west", "north-east", "south-west")


class Series:
    """What a pandas Series has in common with others: values, and an index beside them."""

    def __init__(self, values, index) -> None:
        self.values, self.index = values, index

    def __iter__(self):
        return iter(self.values)

    def __len__(self) -> int:
        return len(self.values)

    def items(self):
        return zip(self.index, self.values, strict=True)


FORMS = {
    "list": list(NAMES),
    "tuple": NAMES,
    "ndarray": np.array(NAMES),
    "ndarray of objects": np.array(NAMES, dtype=object),
    "ndarray of bytes": np.array([name.encode() for name in NAMES]),
    "id2label": dict(enumerate(NAMES)),
    "id2label of JSON": {str(i): name for i, name in enumerate(NAMES)},
    "id2label, unsorted": {2: NAMES[2], 0: NAMES[0], 1: NAMES[1]},
    "class_to_idx": {name: i for i, name in enumerate(NAMES)},
    "class_to_idx, unsorted": OrderedDict((NAMES[i], np.int64(i)) for i in (1, 2, 0)),
    "class_to_idx as text": {name: str(i) for i, name in enumerate(NAMES)},
    "Series": Series(NAMES, range(3)),
    "Series, unsorted": Series((NAMES[2], NAMES[0], NAMES[1]), np.array([2, 0, 1])),
    "Series of numbers": Series((1, 0, 2), (NAMES[1], NAMES[0], NAMES[2])),
}


@pytest.fixture(scope="module")
def fitted_on() -> tuple[LayerKMeansAttribution, torch.Tensor, torch.Tensor]:
    images = torch.rand(12, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(12) % 3
    attribution = LayerKMeansAttribution(make_net(), LAYERS, n_prototypes=1)
    attribution.fit([(images, labels)], n_init=1, n_representatives=1)
    return attribution, images, labels


def _texts(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if text.get_text()]


@pytest.mark.parametrize("form", FORMS)
def test_names_are_read_from_every_usual_form(form):
    assert read_class_names(FORMS[form]) == read_class_names(FORMS[form], 3) == NAMES
    assert [class_name(c, FORMS[form]) for c in range(3)] == list(NAMES)


def test_pandas_is_read_as_it_is_indexed():
    pandas = pytest.importorskip("pandas")
    assert read_class_names(pandas.Series(NAMES)) == NAMES
    assert read_class_names(pandas.Series(NAMES)[[2, 0, 1]]) == NAMES
    assert read_class_names(pandas.Index(NAMES)) == NAMES
    assert read_class_names(pandas.Series(range(3), index=NAMES)) == NAMES


def test_names_that_are_digits_stay_names():
    assert read_class_names({"7": 0, "3": 1}) == ("7", "3")
    assert read_class_names([5, 3]) == ("5", "3")
    assert read_class_names({0: 5, 1: 3}) == ("5", "3")


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("cat", TypeError, "class_names is a str; pass a list"),
        ({"cat", "dog"}, TypeError, "class_names is a set"),
        (3, TypeError, "class_names is a int"),
        ({0: "cat", 2: "dog"}, ValueError, r"from 0 to 1, each once; got \[0, 2\]"),
        ({"cat": 0, "dog": 0}, ValueError, r"each once; got \[0, 0\]"),
        ({"n01": "cat"}, ValueError, "each once"),
        (np.array([["a", "b"]]), ValueError, r"shape \(1, 2\)"),
    ],
)
def test_what_is_no_list_of_names_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        read_class_names(given)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.slow
def test_plots_and_report_show_the_same_names(form, fitted_on, tmp_path):
    attribution, images, _ = fitted_on
    names = FORMS[form]
    found = attribution.explain(images[:1], target=2)
    figures = {
        "plot": found.plot(class_names=names)[0],
        "gallery": plot_prototypes(attribution, list(images), 2, class_names=names)[0],
    }
    for figure in figures.values():
        assert any(NAMES[2] in text.get_text() for text in _texts(figure))
        plt.close(figure)
    path = tmp_path / "page.html"
    write_report(attribution, list(images[:1]), path, class_names=names, show_progress=False)
    assert json.dumps(list(NAMES), separators=(",", ":")) in path.read_text()


def _figures(fitted_on, names):
    attribution, images, labels = fitted_on
    found = [attribution.explain(images[:2], target=c) for c in (0, 2)]
    yield "plot", found[0].plot(class_names=names)
    yield "contrast", plot_contrast(*found, class_names=names)
    yield "comparison", plot_comparison([found[0]], ["all"], [0, 1], class_names=names)
    yield "depths", plot_depths([found[0]], class_names=names)
    yield "gallery", plot_prototypes(attribution, list(images), 0, class_names=names)
    wins = prototype_wins(attribution, [(images, labels)])
    yield "confusions", plot_confusions(wins, class_names=names)
    rows = torch.rand(12, 4, generator=torch.Generator().manual_seed(0))
    yield "embeddings", plot_embeddings(rows, labels, class_names=names)


@pytest.mark.filterwarnings("ignore:constrained_layout")
def test_dollars_are_dollars_in_every_figure(fitted_on):
    names = ["US$1 to US$9", r"$\frac{broken$", "a$b"]
    for kind, (figure, _) in _figures(fitted_on, names):
        texts = _texts(figure)
        assert any("$" in text.get_text() for text in texts), kind
        for text in texts:
            if "$" in text.get_text() and "mathdefault" not in text.get_text():
                assert not text.get_parse_math(), (kind, text.get_text())
        figure.canvas.draw()  # broken mathematics would raise
        plt.close(figure)


LONG = [f"{c} {'a very long name of a species ' * 8}{c}" for c in "xyz"]


@pytest.mark.filterwarnings("ignore:constrained_layout")
def test_long_names_stay_in_their_column(fitted_on):
    for kind, (figure, axes) in _figures(fitted_on, LONG):
        figure.canvas.draw()
        width = figure.bbox.width
        texts = [text for text in _texts(figure) if "…" in text.get_text()]
        assert texts, kind
        for text in texts:
            box = text.get_window_extent()
            assert box.x0 > -5, (kind, text.get_text())
            assert box.x1 < width + 5, (kind, text.get_text())
        titles = (
            [ax.title for ax in np.ravel(axes) if ax.get_title()] if kind != "embeddings" else []
        )
        boxes = sorted(
            (t.get_window_extent() for t in titles), key=lambda box: (round(box.y0), box.x0)
        )
        for a, b in itertools.pairwise(boxes):
            assert a.x1 <= b.x0 + 2 or a.y1 <= b.y0 + 2 or b.y1 <= a.y0 + 2, kind
        plt.close(figure)


def test_shortened_names_keep_both_ends_and_short_ones_all():
    text = fitted("{} less {}: +1", ["cat", LONG[0]], 150, 9)
    assert text.startswith("cat less x a")
    assert text.endswith("x: +1")
    assert fitted("{}", ["short"], 60, 9) == "short"
    assert fitted("{} {}", ["x" * 99, "y" * 99], 1, 9).count("…") == 2
    assert "\x1b" not in fitted("{}", ["a\x1b[2J\nb"], 500, 9)


@pytest.mark.parametrize(
    ("name", "script", "font"),
    [
        ("\u732b", "Cjk", "Noto Sans CJK SC"),
        ("\uace0\uc591\uc774", "Hangul", "Noto Sans CJK KR"),
        ("\u0e41\u0e21\u0e27", "Thai", "Noto Sans Thai"),
        ("\u092c\u093f\u0932\u094d\u0932\u0940", "Devanagari", "Noto Sans Devanagari"),
    ],
)
def test_scripts_without_glyphs_get_one_hint_which_font_to_set(name, script, font, monkeypatch):
    from captum_kmex.visualization import lettering

    with plt.rc_context({"font.family": ["DejaVu Sans"]}):
        monkeypatch.setattr(lettering, "_installed", lambda c: None)
        with pytest.warns(MissingGlyphWarning, match=f"script {script}") as caught:
            fitted("{}", [name], 100, 9)
        assert f"['DejaVu Sans', '{font}'], once it is installed" in str(caught[0].message)
        monkeypatch.setattr(lettering, "_installed", lambda c: "Our Font")
        with pytest.warns(MissingGlyphWarning, match=r"= \['DejaVu Sans', 'Our Font'\]$"):
            fitted("{}", [name], 100, 9)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fitted("{}", ["caf\u00e9 \u03b1 \u0416 \u0633"], 100, 9)


def test_names_that_are_too_few_say_so(fitted_on):
    attribution, images, _ = fitted_on
    found = attribution.explain(images[:1], target=2)
    with pytest.raises(ValueError, match="class_names has 2 names, none for class 2"):
        found.plot(class_names=["a", "b"])
    plt.close("all")


ACCENTED = ["café", "größe", "naïve"]
FILES = {
    "utf-8": "\n".join(ACCENTED).encode(),
    "mark": "\n".join(ACCENTED).encode("utf-8-sig"),
    "CRLF": "\r\n".join([*ACCENTED, "", ""]).encode(),
    "CR": "\r".join(ACCENTED).encode(),
    "CRLF and mark": "\r\n".join(ACCENTED).encode("utf-8-sig"),
    "utf-16": "\n".join(ACCENTED).encode("utf-16"),
    "utf-16, turned": b"\xfe\xff" + "\r\n".join(ACCENTED).encode("utf-16-be"),
    "utf-32": "\n".join(ACCENTED).encode("utf-32"),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_of_names_are_read_in_every_encoding_that_can_be_told(kind, tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes(FILES[kind])
    assert names_of_file(path, 3) == tuple(ACCENTED)


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "mac-roman", "utf-16-le"])
def test_other_encodings_are_refused_not_guessed(encoding, tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes("\n".join(["plain", *ACCENTED]).encode(encoding))
    with pytest.raises(ValueError, match="save it in UTF-8"):
        names_of_file(path, 4)


@pytest.mark.parametrize(
    "content",
    [
        ACCENTED,
        dict(enumerate(ACCENTED)),
        {name: i for i, name in enumerate(ACCENTED)},
        {"model_type": "resnet", "id2label": dict(enumerate(ACCENTED)), "label2id": {}},
    ],
    ids=["list", "id2label", "class_to_idx", "config"],
)
def test_json_files_of_names_are_read(content, tmp_path):
    path = tmp_path / "names.json"
    path.write_text(json.dumps(content))
    assert names_of_file(path, 3) == tuple(ACCENTED)
    path.write_text("{")
    with pytest.raises(ValueError, match="holds no class names"):
        names_of_file(path, 3)


@pytest.mark.slow
def test_folders_and_names_match_however_accents_are_written(tmp_path, capsys):
    model, place = make_model(tmp_path), tmp_path / "pictures"
    for name in ACCENTED:
        for i in range(2):
            draw(place / normalize("NFD", name) / f"{i}.png", i)
    (tmp_path / "names.txt").write_bytes(FILES["CRLF and mark"])
    bank = tmp_path / "bank.safetensors"
    words = [model, place, *GREY, "--n-prototypes", 1, "--class-names", tmp_path / "names.txt"]
    answer_of(capsys, "fit", *words, "--output", bank)
    found = answer_of(capsys, "info", bank)
    assert found["provenance"]["command_line"]["class_names"] == ACCENTED
    target = normalize("NFD", ACCENTED[1])
    words = [model, place, "--bank", bank, "--target", target, "--output", tmp_path / "out"]
    rows = answer_of(capsys, "explain", *words)["images"]
    assert {row["target_name"] for row in rows} == {ACCENTED[1]}


def test_a_name_of_several_classes_is_refused(tmp_path, capsys):
    model = make_model(tmp_path)
    draw(tmp_path / "pictures" / "crane" / "0.png")
    (tmp_path / "names.txt").write_text("crane\nkite\ncrane\n")
    words = [model, tmp_path / "pictures", *GREY, "--class-names", tmp_path / "names.txt"]
    output = ["--output", tmp_path / "out"]
    error = error_of(capsys, "explain", *words, *output, "--target", "crane", code=2)
    assert not (tmp_path / "out").exists()
    assert "classes [0, 2] are all named 'crane'" in error
    assert "classes [0, 2] are all named 'crane'" in error_of(capsys, "fit", *words, *output)


def test_wordnet_folders_are_imagenets_classes(tmp_path, capsys, monkeypatch):
    from captum_kmex.cli.open_model import Subject, class_index, folder_classes
    from captum_kmex.loading.preprocessing import IMAGENET
    from captum_kmex.loading.zoos import imagenet_names

    def subject(names, is_imagenet):
        return Subject(make_net(1000, 3), torch.device("cpu"), IMAGENET, tuple(names), is_imagenet)

    known = subject(imagenet_names(), True)
    folders = ["n01440764", "n02979186", "n03888257"]  # of Imagenette
    assert folder_classes(folders, known) == [0, 482, 701]
    assert class_index("n02979186", known) == 482
    assert folder_classes(folders, subject(map(str, range(1000)), False)) is None
