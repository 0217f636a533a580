"""Words in any order, and what is said of them."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from tiny import GREY, draw, make_model
from workplace import answer_of, error_of

from captum_kmex.cli.main import build_parser, main
from captum_kmex.cli.plain_words import in_plain_words

PREPROCESSING = GREY[: GREY.index("--layers")]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A working folder with pictures a.png and b.png, more in photos, and a folder named 1."""
    for name in ("a.png", "b.png", "photos/c.png", "1/d.png"):
        draw(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "images", "layers"),
    [
        ("m:f a.png b.png --layers 1 3", "a.png b.png", "1 3"),
        ("m:f --layers 1 3 a.png b.png", "a.png b.png", "1 3"),
        ("--layers 1 3 m:f a.png b.png", "a.png b.png", "1 3"),
        ("--layers 1 3 -- m:f a.png b.png", "a.png b.png", "1 3"),
        ("m:f a.png --layers 1 3 --seed 4 b.png", "a.png b.png", "1 3"),
        ("m:f --seed 4 a.png --layers 1 3 b.png --quiet", "a.png b.png", "1 3"),
        ("m:f --layers=1 --layers 3 a.png", "a.png", "1 3"),
        ("m:f --layers 1 photos", "photos", "1"),
        ("m:f photos --layers 3 1", "photos", "3 1"),  # a layer, though there is such a folder
        ("m:f --layers 1 3 photos 1", "photos 1", "1 3"),
        ("m:f --layers 1 3 photos/c.png", "photos/c.png", "1 3"),
        ("m:f --layers 1 3 gone.PNG", "gone.PNG", "1 3"),
        ("m:f --layers suggest a.png", "a.png", "suggest"),
        ("m:f a.png -- b.png", "a.png b.png", None),
    ],
)
@pytest.mark.parametrize("command", ["explain", "report"])
def test_pictures_and_options_stand_in_any_order(command, words, images, layers, place):
    found = build_parser().parse_args([command, *words.split()])
    assert found.model == "m:f"
    assert found.images == [Path(word) for word in images.split()]
    assert found.layers == (None if layers is None else layers.split())


@pytest.mark.parametrize(
    "words", ["m:f photos --layers 1 3", "m:f --layers 1 3 photos", "--layers 1 3 m:f photos"]
)
def test_the_folder_of_a_fit_stands_anywhere(words, place):
    found = build_parser().parse_args(["fit", *words.split()])
    assert (found.model, found.data, found.layers) == ("m:f", Path("photos"), ["1", "3"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("explain m:f", "required: IMAGES"),
        ("explain m:f --layers 1 3", "required: IMAGES"),
        ("explain m:f --layers photos", "required: IMAGES"),
        ("explain", "required: MODEL"),
        ("fit m:f --layers 3 photos 1", "required: DATA"),
        ("explain m:f a.png --layers", "--layers: expected one argument"),
        ("explain m:f --layers --quiet a.png", "--layers: expected one argument"),
        (
            "explain m:f a.png --magic",
            "explain: error: unrecognized arguments: --magic",
        ),
        ("info m:f more", "captum-kmex info: error: unrecognized arguments: more"),
        ("explain m:f a.png --n-clusters 0", "--n-clusters: 0 should be between 1 and 65,536"),
        ("explain m:f a.png --batch-size x", "--batch-size: 'x' is not a whole number"),
    ],
)
def test_what_is_missing_or_left_over_is_said(words, message, place, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(words.split())
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--layers 1 3 --depth 7", "--depth 7 is not one of the 2 layers 1, 3; pass a name"),
        ("--layers 1 3 --depth top", "--depth top is not one of the 2 layers 1, 3"),
        ("--layers 1 conv", "layer 'conv' is not in the model Sequential"),
        ("--layers 3 1", "layers must stand shallow to deep; got 3, 1, they ran as 1, 3"),
        ("--bank gone", "no bank at gone; captum-kmex fit writes one"),
    ],
)
def test_errors_speak_of_options_as_they_are_typed(words, message, place, capsys):
    model = make_model(place)
    error = error_of(capsys, "explain", model, "a.png", *PREPROCESSING, *words.split(), "--quiet")
    assert message in error


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nowhere:make", "there is no Python package 'nowhere' for nowhere:make"),
        ("a.png:make", "there is no Python package 'a.png'"),
        ("own.py:needs", "own.py:needs cannot make a model from nothing: it takes width. Name a"),
        ("own.py:none", "own.py has no 'none'; it has "),
    ],
)
def test_models_that_cannot_be_made_are_named(model, message, place, capsys):
    (place / "own.py").write_text("def needs(width, num_classes=3): ...\ndef one(): ...\n")
    error = error_of(capsys, "explain", model, "a.png", "--quiet", code=1 if "none" in model else 2)
    assert message in error
    assert "Error" not in error


def test_a_package_that_lacks_another_says_which(place, capsys):
    (place / "half.py").write_text("import not_installed_at_all\n")
    error = error_of(capsys, "explain", "half:make", "a.png", "--quiet")
    assert "No module named 'not_installed_at_all'" in error


def test_messages_get_the_words_of_the_command():
    options = argparse.Namespace(n_clusters=3, depth=0, seed=0, output="x", model="m")
    said = {
        "n_clusters=20 is more than 16": "--n-clusters 20 is more than 16",
        "depth='a b' is none of ['a', 'b.c']": "--depth a b is none of a, b.c",
        "lower n_clusters, or seed the depth": "lower --n-clusters, or seed the depth",
    }
    for message, expected in said.items():
        assert in_plain_words(message, options) == expected
    for message in ("bank.n_clusters, n_clusters(), x_n_clusters", "got [0, 1]", "x['a']"):
        assert in_plain_words(message, options) == message


def test_warnings_get_the_words_of_the_command(place, capsys):
    model = make_model(place)
    words = ["explain", model, "a.png", *GREY[:-2], "3", "--n-clusters", "500", "--no-figure"]
    assert main(words) == 0
    assert "warning: --n-clusters 500 is more than the 64 pixels" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_a_shell_can_complete_the_words(shell, capsys):
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit, match="0"):
        main(["--print-completion", shell])
    found = capsys.readouterr().out
    assert "captum-kmex" in found
    for word in ("explain", "suggest", "--batch-size" if shell != "tcsh" else "batch-size"):
        assert word in found


def test_completion_without_its_extra_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "shtab", None)
    with pytest.raises(SystemExit, match="2"):
        main(["--print-completion", "bash"])
    assert 'pip install "captum_kmex[completion]"' in capsys.readouterr().err


def test_pictures_of_a_batch_are_explained_as_each_alone(place, capsys):
    model = make_model(place)
    words = ["explain", model, *GREY, "a.png", "b.png", "photos"]
    alone = answer_of(capsys, *words, "--output", "alone")
    together = answer_of(capsys, *words, "--output", "together", "--batch-size", 2)
    assert [row["name"] for row in together["images"]] == ["a.png", "b.png", "photos/c.png"]
    for one, other in zip(alone["images"], together["images"], strict=True):
        assert other["output"] == pytest.approx(one["output"], abs=1e-5)
        assert other["target"] == one["target"]
        assert other["segments"] == one["segments"]


def test_figures_are_named_as_their_pictures_or_left_out(place, capsys):
    model = make_model(place)
    words = ["explain", model, *GREY, "a.png", "photos", "1", "--output", "out"]
    draw(place / "photos" / "a.png", 3)
    found = answer_of(capsys, *words)
    figures = [row["figure"] for row in found["images"]]
    assert figures == [
        "out/a/a.png",
        "out/photos/a/a.png",
        "out/photos/c/c.png",
        "out/1/d/d.png",
    ]
    assert all((place / figure).stat().st_size > 10_000 for figure in figures)
    found = answer_of(capsys, *words, "--no-figure")
    assert [row["figure"] for row in found["images"]] == [None] * 4
    assert not list((place / "out").rglob("*.png"))
    assert main([*words, "--no-figure", "--quiet"]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("out/a")
