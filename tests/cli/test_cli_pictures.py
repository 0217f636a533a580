"""Pictures of strangers: deep pixels, odd files, figures of our own, names that collide."""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import finish, start
from tiny import GREY, draw, make_model
from workplace import answer_of, error_of

from captum_kmex.cli.main import main
from captum_kmex.cli.output import folder_names
from captum_kmex.exceptions import PixelDepthWarning, SkippedImageWarning
from captum_kmex.loading.decoding import check_picture
from captum_kmex.loading.pictures import class_folders, find_pictures, open_picture, readable
from captum_kmex.loading.preprocessing import IMAGENET, Preprocessing

SMALL = IMAGENET.changed((16,), (16,), (0.5,), (0.25,))
RAMP = np.linspace(0, 1, 64 * 64).reshape(64, 64)
DEEP = {
    "12 bits": ((RAMP * 4095).astype(np.uint16), "deep.png"),
    "10 bits": ((RAMP * 1023).astype(np.uint16), "deep.tiff"),
    "16 bits": ((RAMP * 65535).astype(np.uint16), "deep.png"),
    "tomograph, shifted": ((31744 + RAMP * 4095).astype(np.uint16), "deep.tif"),
    "tomograph, signed": ((RAMP * 4095 - 1024).astype(np.int32), "deep.tiff"),
    "32 bits": ((RAMP * 2e9).astype(np.int32), "deep.tiff"),
    "float to 1": (RAMP.astype(np.float32), "deep.tiff"),
    "float of any range": ((RAMP * 3e-3 - 1e-3).astype(np.float32), "deep.tiff"),
}


@pytest.mark.parametrize("kind", DEEP)
def test_pictures_of_more_than_8_bits_keep_their_grey_levels(kind, tmp_path):
    values, name = DEEP[kind]
    Image.fromarray(values).save(tmp_path / name)
    found = np.asarray(open_picture(tmp_path / name))
    expected = (values.astype(float) - values.min()) / float(np.ptp(values.astype(float)))
    assert found.dtype == np.uint8
    assert len(np.unique(found)) > 250
    np.testing.assert_allclose(found, 255 * expected, atol=0.501)
    with pytest.warns(PixelDepthWarning, match="1 pictures hold more than 8 bits") as caught:
        readable(find_pictures([tmp_path], SMALL), strict=True, show_progress=False)
    assert f"{float(values.min()):g} to {float(values.max()):g}" in str(caught[0].message)


def test_a_pixel_range_scales_all_pictures_alike_and_is_recorded(tmp_path):
    ranged = SMALL.changed(None, None, None, None, (-1000, 3000))
    assert Preprocessing.of(json.loads(json.dumps(ranged.describe()))) == ranged
    assert str(ranged).endswith("values -1000 to 3000")
    Image.fromarray(np.array([[-5000, -1000], [1000, 9000]], np.int32)).save(tmp_path / "a.tiff")
    found = np.asarray(open_picture(tmp_path / "a.tiff", ranged))
    assert found.tolist() == [[0, 0], [128, 255]]
    for wrong in ((1,), (3, 2), (0, float("nan")), (1, 2, 3)):
        with pytest.raises(ValueError, match="two numbers, the smaller first"):
            SMALL.changed(None, None, None, None, wrong)


def test_pictures_of_8_bits_and_constant_ones_stay_as_they_are(tmp_path, recwarn):
    values = (RAMP * 17).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.array_equal(np.asarray(open_picture(tmp_path / "a.png")), values)
    readable(find_pictures([tmp_path], SMALL), strict=True, show_progress=False)
    assert not recwarn.list
    Image.fromarray(np.full((4, 4), 700, np.uint16)).save(tmp_path / "flat.png")
    assert not np.asarray(open_picture(tmp_path / "flat.png")).any()


def test_deep_pictures_that_cannot_be_scaled_are_named(tmp_path):
    values = RAMP.astype(np.float32)
    values[3, 3] = np.nan
    Image.fromarray(values).save(tmp_path / "nan.tiff")
    with pytest.raises(ValueError, match=r"nan\.tiff holds NaN or Inf"):
        open_picture(tmp_path / "nan.tiff")


@pytest.mark.parametrize("bits", [10, 12])
def test_deep_colours_of_which_little_is_read_are_refused(bits, tmp_path):
    colors = np.linspace(0, 2**bits - 1, 3 * 32 * 32).reshape(32, 32, 3)
    (tmp_path / "a.png").write_bytes(_png_of_16_bits(colors))
    with pytest.raises(ValueError, match="only the upper 8 can be read"):
        open_picture(tmp_path / "a.png")


def _png_of_16_bits(colors: np.ndarray) -> bytes:
    rows = colors.astype(">u2")
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], 16, 2, 0, 0, 0)),
             (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]  # fmt: skip
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in parts:
        data += struct.pack(">I", len(content)) + kind + content
        data += struct.pack(">I", zlib.crc32(kind + content))
    return data


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (3, 30_000)])
def test_pictures_too_large_once_resized_are_left_out_by_name(size, tmp_path):
    Image.new("L", size).save(tmp_path / "thin.png")
    draw(tmp_path / "good.png")
    with pytest.warns(SkippedImageWarning, match=r"thin\.png of .* larger than 64 megapixels"):
        kept = readable(find_pictures([tmp_path], IMAGENET), strict=False, show_progress=False)
    assert kept.names() == ["good.png"]
    with pytest.raises(ValueError, match="64 megapixels"):
        IMAGENET(Image.new("L", size))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"resize": 20_000}, "64 megapixels"),
        ({"resize": [10_000, 10_000]}, "64 megapixels"),
        ({"resize": 10**40}, "64 megapixels"),
        ({"resize": "wide"}, "cannot be used"),
        ({"resize": [300]}, "cannot be used"),
        ({"resize": float("nan")}, "cannot be used"),
        ({"resize": float("inf")}, "cannot be used"),
        ({"crop": [0, 0]}, "at least 1"),
        ({"crop": [-3, -3]}, "at least 1"),
        ({"crop": None}, "cannot be used"),
        ({"mean": ["a", "b", "c"]}, "cannot be used"),
        ({"mean": [float("nan")] * 3}, "must be finite"),
        ({"std": [float("inf")] * 3}, "must be positive"),
        ({"interpolation": "magic"}, "is none of"),
        ({"pixel_range": [5, 1]}, "the smaller first"),
    ],
)
def test_preprocessing_that_a_strangers_bank_asks_for_is_bounded(record, message):
    with pytest.raises(ValueError, match=message) as caught:
        Preprocessing.of(IMAGENET.describe() | record)
    assert "that the bank records cannot be used" in str(caught.value)
    incomplete = dict(IMAGENET.describe())
    del incomplete[next(iter(record))]
    if "pixel_range" not in record:
        with pytest.raises(ValueError, match="the bank records cannot be used"):
            Preprocessing.of(incomplete)


def _read_folder(path: str) -> None:
    with pytest.warns(SkippedImageWarning, match="is no regular file"):
        kept = readable(find_pictures([Path(path)], SMALL), strict=False, show_progress=False)
    assert kept.names() == ["good.png"]
    with pytest.raises(ValueError, match="is no regular file"):
        open_picture(Path(path) / "odd.png")


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "link to a device"])
@pytest.mark.slow
def test_pipes_and_devices_are_not_opened(kind, tmp_path):
    folder = tmp_path / "pictures"
    draw(folder / "good.png")
    if kind == "pipe":
        os.mkfifo(folder / "odd.png")
    elif kind == "link to a pipe":
        os.mkfifo(tmp_path / "pipe")
        (folder / "odd.png").symlink_to(tmp_path / "pipe")
    else:
        (folder / "odd.png").symlink_to("/dev/zero")
    assert finish(start(_read_folder, str(folder))) == 0


@pytest.mark.parametrize("ending", ["AVIF", "WEBP", "JPEG2000", "TIFF", "PNG", "GIF", "BMP"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_damage_in_any_format_is_one_clean_error(ending, share, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(
        path, ending
    )
    data = bytearray(path.read_bytes())
    data[int(share * len(data)) :] = b"\xff" * 9
    path.write_bytes(data)
    fault = check_picture(path, SMALL).fault  # another error fails the test
    assert not fault or f"{path} cannot be read as a picture" in fault


def test_a_decoder_may_fail_in_any_way(tmp_path, monkeypatch):
    draw(tmp_path / "a.png")
    for error in (RuntimeError("decoder"), KeyError(3), MemoryError(), IndexError()):

        def load(image, error=error):
            raise error

        monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
        with pytest.raises(ValueError, match=r"a\.png cannot be read as a picture \(."):
            open_picture(tmp_path / "a.png")


@pytest.mark.slow
def test_explaining_a_folder_twice_explains_the_same_pictures(tmp_path, capsys, monkeypatch):
    model = make_model(tmp_path)
    place = tmp_path / "pictures"
    for name in ("a.png", "b.png", "deep/c.png"):
        draw(place / name)
    monkeypatch.chdir(place)
    runs = [answer_of(capsys, "explain", model, ".", *GREY) for _ in range(3)]
    names = [[row["name"] for row in run["images"]] for run in runs]
    assert names == [["a.png", "b.png", "deep/c.png"]] * 3
    assert runs[0] == runs[1]
    answer_of(capsys, "explain", model, ".", *GREY, "--output", ".")  # and beside them
    assert [row["name"] for row in answer_of(capsys, "explain", model, ".", *GREY)["images"]] == (
        names[0]
    )
    # what a killed run left is none either
    draw(place / ".left" / "0000.png")
    assert find_pictures([Path()], SMALL).names() == names[0]
    error = error_of(capsys, "explain", model, "explained", *GREY)
    assert "explained holds no pictures" in error


def test_pictures_beside_class_folders_are_all_taken_or_all_refused(tmp_path):
    for name in ("cat/1.png", "dog/2.png", "3.png"):
        draw(tmp_path / name)
    found = find_pictures([tmp_path], SMALL)
    assert found.names() == ["3.png", "cat/1.png", "dog/2.png"]
    assert found.labels == ()
    with pytest.raises(ValueError, match=r"pictures \(3\.png\) beside its class folders \(cat\)"):
        class_folders(tmp_path, SMALL)
    (tmp_path / "3.png").unlink()
    assert (
        find_pictures([tmp_path], SMALL).labels == (0, 1) == class_folders(tmp_path, SMALL).labels
    )


def test_explanations_among_class_folders_are_no_class(tmp_path, capsys):
    model, place = make_model(tmp_path), tmp_path / "pictures"
    for name in ("cat/1.png", "dog/2.png"):
        draw(place / name)
    answer_of(capsys, "explain", model, place, *GREY, "--output", place / "explained")
    assert class_folders(place, SMALL).folders == ("cat", "dog")
    (place / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no pictures"):
        class_folders(place, SMALL)


@pytest.mark.parametrize(
    "names",
    [
        ["a.png", "a.jpg", "a.png.jpg"],
        ["a.png.jpg", "a.png", "a.jpg"],
        ["a.png", "A.png", "a.JPG"],
        ["index.json.png", "Index.JSON.jpg"],
        ["a.png", "a/0000.png", "a/a.png", "a.png/b.png"],
        ["caf\u00e9.png", "cafe\u0301.png"],
        [f"{'x' * n}.png" for n in range(200, 252)],
        ["\u4e2d" * 80 + f"{i}.png" for i in range(4)],
        ["../../out.png", "..", "/abs.png"],
    ],
    ids=["endings", "turned", "case", "index", "nested", "accents", "long", "long han", "outside"],
)
def test_every_picture_gets_a_folder_of_its_own_inside(names, tmp_path):
    found = folder_names(names)
    keys = [name.casefold() for name in found]
    assert len(set(keys)) == len(names)
    assert "index.json" not in keys
    for name in found:
        assert (tmp_path / name).resolve().is_relative_to(tmp_path)
        assert tmp_path != (tmp_path / name).resolve()
        assert not any(other.startswith(f"{name.casefold()}/") for other in keys)
        (tmp_path / name).mkdir(parents=True)


def test_plain_names_lose_their_ending_only():
    assert folder_names(["a.png", "b/c.jpg", "d.tar.png"]) == ["a", "b/c", "d.tar"]
    assert folder_names(["a.png", "a.jpg"]) == ["a.png", "a.jpg"]


@pytest.mark.slow
def test_colliding_and_long_names_are_all_explained(tmp_path, capsys):
    model, place = make_model(tmp_path), tmp_path / "pictures"
    names = ["a.png", "a.jpg", "a.png.jpg", "index.json.png", f"{'y' * 250}.png", "a/b.png"]
    for i, name in enumerate(names):
        draw(place / name, i)
    for _ in range(2):
        found = answer_of(capsys, "explain", model, place, *GREY, "--output", tmp_path / "out")
        assert sorted(row["name"] for row in found["images"]) == sorted(names)
        folders = [Path(row["folder"]) for row in found["images"]]
        assert len({*folders}) == len(names)
        assert all(Path(row["figure"]).is_file() for row in found["images"])
        assert json.loads((tmp_path / "out" / "index.json").read_text()) == found


def written(folder: Path, apart: Path) -> set[Path]:
    """Return what stands in a folder, but in another, and but for Python's own cache."""
    return {
        path
        for path in folder.rglob("*")
        if apart not in path.parents and "__pycache__" not in path.parts
    }


@pytest.mark.parametrize("words", [["x/../../a.png", "x/b.png"], ["x/../../a.png"], ["../a.png"]])
def test_explanations_stay_in_their_output_folder(words, tmp_path, capsys, monkeypatch):
    model, place = make_model(tmp_path), tmp_path / "deep" / "work"
    draw(place / "x" / "b.png")
    draw(tmp_path / "deep" / "a.png")
    monkeypatch.chdir(place)
    before = written(tmp_path, place / "out")
    found = answer_of(capsys, "explain", model, *words, *GREY, "--output", "out")
    assert written(tmp_path, place / "out") - before <= {place / "out"}
    assert len(found["images"]) == len(words)
    assert all(".." not in Path(row["folder"]).parts for row in found["images"])


def test_a_file_named_twice_is_explained_once(tmp_path, monkeypatch):
    draw(tmp_path / "a.png")
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path)
    found = find_pictures([Path("a.png"), Path("x/../a.png"), tmp_path / "a.png"], SMALL)
    assert found.names() == ["a.png"]


@pytest.mark.slow
def test_file_names_that_are_no_utf8_lose_no_fit(tmp_path, capsys):
    model, place = make_model(tmp_path), tmp_path / "pictures"
    for c in ("cat", os.fsdecode(b"d\xf6g"), "fox"):
        for i in range(4):
            draw(place / c / f"{i}.png", i)
        draw(place / c / os.fsdecode(b"caf\xe9.png"), 9)
    (place / "cat" / os.fsdecode(b"b\xff.png")).write_bytes(b"damaged")
    bank = tmp_path / "bank.safetensors"
    words = ["fit", model, place, *GREY, "--output", bank, "--n-prototypes", 1]
    assert main([*map(str, words), "--checkpoint", str(tmp_path / "progress")]) == 0
    text = capsys.readouterr()
    assert "fitted on 15 pictures, 1 left out" in text.out
    assert "b\\xff.png cannot be read" in text.err
    assert bank.is_file()
    pictures = [place / "cat", place / os.fsdecode(b"d\xf6g")]
    for command, output in (("explain", "out"), ("report", "page.html")):
        words = [command, model, *pictures, "--bank", bank, "--train", place]
        assert main([*map(str, words), "--output", str(tmp_path / output)]) == 0
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert "cat/caf\\xe9.png" in [row["name"] for row in index["images"]]
