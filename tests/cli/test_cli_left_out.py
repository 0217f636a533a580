"""Pictures that are turned, and pictures that are left out, with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import GREY, draw, make_model
from workplace import answer_of, error_of

from captum_kmex.cli.main import main
from captum_kmex.loading.decoding import open_picture
from captum_kmex.loading.finding import unread_in
from captum_kmex.loading.pictures import find_pictures
from captum_kmex.loading.preprocessing import IMAGENET, Preprocessing

ORIENTATION = 0x0112
UPRIGHT = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)
# how a camera's grid lies in the file, for each orientation of EXIF
TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: np.rot90(a, -1),
}


def _write(path: Path, values: np.ndarray, orientation: int) -> Path:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(np.ascontiguousarray(values)).save(path, exif=exif)
    return path


@pytest.mark.parametrize("orientation", TURNS)
def test_a_picture_is_turned_upright_unless_that_is_ignored(orientation, tmp_path):
    stored = TURNS[orientation](UPRIGHT)
    path = _write(tmp_path / "a.png", stored, orientation)
    assert np.array_equal(np.asarray(open_picture(path)), UPRIGHT)
    assert np.array_equal(np.asarray(open_picture(path, IMAGENET)), UPRIGHT)
    as_stored = IMAGENET.changed(None, None, None, None, None, True)
    assert np.array_equal(np.asarray(open_picture(path, as_stored)), stored)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, np.float32])
def test_pictures_of_any_depth_are_turned(kind, tmp_path):
    stored = TURNS[6](UPRIGHT).astype(kind)
    path = tmp_path / "a.tiff"
    Image.fromarray(stored).save(path, tiffinfo={ORIENTATION: 6})
    assert open_picture(path).size == (6, 4)
    found = np.asarray(open_picture(path)).astype(float)
    np.testing.assert_allclose(found / 255, UPRIGHT / (255 if kind is np.uint8 else 230), atol=0.01)


def test_a_damaged_orientation_turns_nothing(tmp_path, monkeypatch):
    path = draw(tmp_path / "a.png")
    expected = np.asarray(Image.open(path))
    monkeypatch.setattr("PIL.Image.Image.getexif", lambda self: 1 / 0)
    assert np.array_equal(np.asarray(open_picture(path)), expected)


def test_what_a_bank_records_of_the_orientation_holds():
    ignoring = IMAGENET.changed(None, None, None, None, None, True)
    for one in (IMAGENET, ignoring):
        assert Preprocessing.of(one.describe()) == one
    assert str(ignoring).endswith(", EXIF ignored")
    earlier = {k: v for k, v in IMAGENET.describe().items() if k != "ignore_exif"}
    assert Preprocessing.of(earlier).ignore_exif  # as it was fitted


def test_explain_turns_a_photograph_and_can_leave_it(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = make_model(tmp_path)
    values = np.random.default_rng(0).integers(0, 255, (20, 20), np.uint8)
    _write(tmp_path / "plain.png", values, 1)
    _write(tmp_path / "turned.png", np.rot90(values), 6)
    words = ["explain", model, *GREY, "plain.png", "turned.png", "--no-figure"]
    plain, turned = (row["output"] for row in answer_of(capsys, *words)["images"])
    assert turned == pytest.approx(plain, abs=1e-6)
    plain, turned = (r["output"] for r in answer_of(capsys, *words, "--ignore-exif")["images"])
    assert turned != pytest.approx(plain, abs=1e-6)


def test_every_kind_of_picture_left_out_is_said_once_and_why(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = make_model(tmp_path)
    draw(tmp_path / "p" / "good.png")
    Image.new("L", (9, 9)).save(tmp_path / "p" / "moving.gif")
    (tmp_path / "p" / "deep").mkdir()
    (tmp_path / "p" / "deep" / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "p" / "broken.png").write_bytes(b"\x89PNG, no more")
    (tmp_path / "p" / "notes.txt").write_text("no picture")
    (tmp_path / "p" / ".hidden.gif").write_bytes(b"")
    words = ["explain", model, *GREY, "p", "--no-figure"]
    reasons = {
        "broken.png": "p/broken.png cannot be read as a picture (it is none, or damaged)",
        "deep/phone.HEIC": "p/deep/phone.HEIC: HEIC cannot be read; save it as JPEG or PNG",
        "moving.gif": "p/moving.gif: GIF is not taken from a folder; name the file itself to "
        "have its first picture read",
    }
    found = answer_of(capsys, *words)
    assert found["skipped"] == list(reasons)
    assert found["why_skipped"] == reasons
    assert [row["name"] for row in found["images"]] == ["good.png"]
    assert main(words) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == len(reasons)
    assert all("is left out" in line for line in warnings)
    # by its own name an animation is read, and nothing is said of it
    found = answer_of(capsys, *words, "p/moving.gif")
    assert sorted(found["skipped"]) == ["broken.png", "deep/phone.HEIC"]
    assert {row["name"] for row in found["images"]} == {"good.png", "moving.gif"}
    report = answer_of(capsys, "report", model, *GREY, "p", "--output", "page.html")
    assert report["why_skipped"] == reasons


def test_a_kind_that_cannot_be_read_is_named_when_it_is_all_there_is(tmp_path, capsys):
    model, photo = make_model(tmp_path), tmp_path / "phone.heic"
    photo.write_bytes(b"\0\0\0\x18ftypheic")
    assert main(["explain", model, *GREY, str(photo)]) == 1
    said = capsys.readouterr().err
    assert "phone.heic cannot be read as a picture (HEIC; save it as JPEG or PNG)" in said
    assert "no picture is left" in error_of(capsys, "explain", model, *GREY, photo)


def test_pictures_that_are_taken_are_not_among_the_unread(tmp_path):
    for name in ("a.png", "b.JPG", "c/d.webp"):
        draw(tmp_path / "x.png").rename(tmp_path / Path(name).name)
    assert unread_in(tmp_path) == {}
    assert len(find_pictures([tmp_path], IMAGENET)) == 3
