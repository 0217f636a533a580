"""What commands leave where they write: checked first, whole or absent, and inert on a terminal."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from processes import finish, start
from tiny import GREY, draw, make_model
from workplace import answer_of, error_of

import captum_kmex
from captum_kmex import LayerKMeansAttribution, PrototypeBank
from captum_kmex.cli.answer import say, table
from captum_kmex.cli.main import main
from captum_kmex.cli.options import byte_count
from captum_kmex.loading import models
from captum_kmex.text.plain import printable

ROOT = str(Path(captum_kmex.__file__).parents[1])
ENVIRONMENT = os.environ | {"PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def place(tmp_path) -> Path:
    """A model, and pictures of three classes."""
    make_model(tmp_path)
    for c in ("cat", "dog", "fox"):
        for i in range(3):
            draw(tmp_path / "pictures" / c / f"{i}.png", i)
    return tmp_path


def _words(command: str, place: Path, output: Path | str) -> list[str]:
    model = f"{place / 'tiny_kmex.py'}:make"
    words = [command, model, place / "pictures", *GREY, "--output", output]
    return [*map(str, words), *(["--n-prototypes", "1"] if command == "fit" else [])]


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "below a file", "too long", "proc"])
@pytest.mark.parametrize("command", ["fit", "report", "explain"])
def test_an_output_that_cannot_be_written_is_found_before_any_work(
    command, kind, place, capsys, monkeypatch
):
    (place / "file").write_text("")
    os.mkfifo(place / "pipe")
    output = {
        "folder": place,
        "pipe": place / "pipe",
        "device": "/dev/null",
        "below a file": place / "file" / "out",
        "too long": place / ("x" * 240),
        "proc": "/proc/out",
    }[kind]
    if command == "explain" and kind in ("folder", "too long"):
        pytest.skip("folders are what it writes, by names of any length")

    def no_work(*_: object) -> None:
        pytest.fail("the model was loaded")

    monkeypatch.setattr(models, "set_weights", no_work)
    monkeypatch.setattr("captum_kmex.cli.open_model.with_weights", no_work)
    error = error_of(capsys, *_words(command, place, output), code=2)
    assert "--output" in error
    assert not list(place.glob(".*"))


def test_a_checkpoint_that_cannot_be_written_is_found_before_any_work(place, capsys):
    words = [*_words("fit", place, place / "bank"), "--checkpoint", place]
    assert "--checkpoint" in error_of(capsys, *words, code=2)


def test_a_folder_of_other_files_is_found_before_the_first_explanation(place, capsys):
    (place / "out" / "fox" / "2").mkdir(parents=True)
    (place / "out" / "fox" / "2" / "thesis.txt").write_text("mine")
    assert "holds other files" in error_of(capsys, *_words("explain", place, place / "out"))
    assert not (place / "out" / "cat").exists()


def _left(place: Path) -> list[str]:
    return sorted(p.name for p in place.rglob("*") if p.name.startswith("."))


def _run_and_die(words: list[str]) -> None:
    from unittest import mock

    def die(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with (
        mock.patch("matplotlib.figure.Figure.savefig", die),
        mock.patch("captum_kmex.report.page.Page.finish", die),
    ):
        main(words)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["explain", "report"])
def test_a_later_run_removes_what_a_killed_one_left(command, place, capsys):
    words = _words(command, place, place / ("out" if command == "explain" else "page.html"))
    for _ in range(2):
        assert finish(start(_run_and_die, words)) == -signal.SIGKILL
        assert len(_left(place)) == 1
    answer_of(capsys, *words)
    assert _left(place) == []


def _save_and_wait(folder: str, ready: str, go: str) -> None:
    import torch
    from nets import LAYERS, make_net

    from captum_kmex.report import write_report

    def wait(*_: object, **__: object) -> None:
        Path(ready).touch()
        while not Path(go).exists():
            time.sleep(0.02)

    attribution = LayerKMeansAttribution(make_net(), LAYERS, n_clusters=3)
    images = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    if Path(folder).suffix:

        def picture(x: torch.Tensor) -> np.ndarray:
            wait()
            return x[0].numpy()

        write_report(attribution, list(images), folder, picture=picture, show_progress=False)
    else:
        found = attribution.explain(images)
        object.__setattr__(found, "plot", wait)
        try:
            found.save(folder)
        except TypeError:
            return  # the figure that it waited for
    assert Path(folder).exists()


@pytest.mark.parametrize("name", ["out", "page.html"])
@pytest.mark.slow
def test_what_a_live_run_is_writing_stays(name, tmp_path):
    path, ready, go = tmp_path / name, tmp_path / "ready", tmp_path / "go"
    other = start(_save_and_wait, str(path), str(ready), str(go))
    while not ready.exists():
        assert other.is_alive()
        time.sleep(0.02)
    (unfinished,) = _left(tmp_path)
    (tmp_path / "now").touch()
    _save_and_wait(str(path), str(tmp_path / "other"), str(tmp_path / "now"))
    assert unfinished in _left(tmp_path)
    go.touch()
    assert finish(other) == 0
    assert _left(tmp_path) == []


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("can_exchange", [True, False], ids=["exchange", "two steps"])
@pytest.mark.slow
def test_a_save_killed_at_any_step_loses_no_explanation(can_exchange, count, tmp_path):
    folder = tmp_path / "explained"
    _explained(0).save(folder)
    assert finish(start(_save, str(folder), 1, count, can_exchange)) in (0, 7)
    kept = [p for p in tmp_path.rglob("arrays.npz") if (p.parent / "manifest.json").is_file()]
    if can_exchange:
        assert folder / "arrays.npz" in kept
    assert kept  # old or new, here or beside
    old_or_new = [np.load(path)["attribution"] for path in kept]
    wanted = [_explained(seed).attribution.numpy() for seed in (0, 1)]
    assert all(any(np.array_equal(a, b) for b in wanted) for a in old_or_new)
    _explained(2).save(folder)
    assert _left(tmp_path) == []
    found = np.load(folder / "arrays.npz")["attribution"]
    np.testing.assert_array_equal(found, _explained(2).attribution)


def test_an_old_explanation_comes_back_if_the_next_save_fails(tmp_path):
    folder = tmp_path / "explained"
    _explained(0).save(folder)
    assert finish(start(_save, str(folder), 1, 3, False)) == 7  # between its two renames
    assert not folder.exists()
    found = _explained(2)
    object.__setattr__(found, "plot", None)
    with pytest.raises(TypeError, match="not callable"):
        found.save(folder)
    assert _left(tmp_path) == []
    np.testing.assert_array_equal(
        np.load(folder / "arrays.npz")["attribution"], _explained(0).attribution
    )


def _explained(seed: int):
    import torch
    from nets import LAYERS, make_net

    images = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(seed))
    found = LayerKMeansAttribution(make_net(), LAYERS, n_clusters=3).explain(images)
    object.__setattr__(found, "plot", lambda *_, **__: (Figure(figsize=(1, 1)), None))  # quick
    return found


def _save(folder: str, seed: int, count: int, can_exchange: bool) -> None:
    """Save, and end at once before the given rename or removal."""
    from unittest import mock

    from captum_kmex.files import folders

    left = [count]

    def deadly(function):
        def called(*arguments, **options):
            left[0] -= 1
            if left[0] == 0:
                os._exit(7)
            return function(*arguments, **options)

        return called

    found = _explained(seed)
    exchanged = deadly(folders._exchanged if can_exchange else lambda *_: False)
    with (
        mock.patch.object(folders, "_exchanged", exchanged),
        mock.patch.object(Path, "rename", deadly(Path.rename)),
        mock.patch("shutil.rmtree", deadly(shutil.rmtree)),
    ):
        found.save(folder)


@pytest.mark.parametrize("length", [200, 221, 222, 250, 255])
def test_explanations_are_saved_in_folders_of_any_name(length, tmp_path):
    for _ in range(2):
        _explained(0).save(tmp_path / ("n" * length))
    _explained(0).save(tmp_path / os.fsdecode(b"caf\xe9"))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for _ in range(2):
        _explained(0).save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "manifest.json").is_file()
    assert _left(tmp_path) == []


EVIL = "\x1b]0;owned\x07\x1b[2J\u202ezyx\u2028\x9b31m\r\n\tq"


def _is_inert(text: str) -> bool:
    return not [c for c in text if c != "\n" and printable(c) != c]


@pytest.mark.slow
def test_names_of_files_and_classes_reach_the_terminal_inert(place, capfd):
    evil = EVIL.replace("\u2028", "")
    draw(place / "pictures" / "cat" / f"{evil}.png")
    (place / "pictures" / "cat" / f"{evil}2.png").write_bytes(b"damaged")
    names = place / "names.json"
    names.write_text(json.dumps([evil, "b", "c"]))
    words = _words("explain", place, place / evil)
    assert main([*words, "--class-names", str(names), "--traceback"]) == 0
    assert main([*words[:-2], "--output", str(place / "out"), "--layers", evil, "--traceback"]) == 1
    assert main([*words, "--target", evil]) == 2
    assert main([*words, evil]) == 1  # a picture that is not there
    with pytest.raises(SystemExit):
        main([*words, f"--{evil}"])
    assert main(_words("fit", place, place / f"{evil}bank")) == 0
    found = capfd.readouterr()
    assert "\\x1b]0;owned\\x07" in found.out
    assert "\\x1b]0;owned\\x07" in found.err
    assert _is_inert(found.out)
    # bars move to and fro in their line
    assert _is_inert(found.err.replace("\r", "").replace("\x1b[A", ""))


@pytest.mark.slow
def test_a_strangers_bank_reaches_the_terminal_inert(place, capfd):
    bank = place / "bank.safetensors"
    assert main(_words("fit", place, bank)) == 0
    import dataclasses

    found = PrototypeBank.load(bank)
    about = dict(found.provenance)
    about["command_line"] = about["command_line"] | {
        "model": EVIL,
        "class_names": [EVIL, "b", "c"],
    }
    about["versions"] = {"captum_kmex": EVIL, "torch": EVIL}
    dataclasses.replace(found, provenance=about).save(bank)
    capfd.readouterr()
    assert main(["info", str(bank)]) == 0
    words = _words("explain", place, place / "out")
    i = words.index("--resize")
    words = [*words[:i], "--bank", str(bank), *words[words.index("--output") :]]
    assert main(words) == 0
    text = "".join(capfd.readouterr())
    assert "\\x1b]0;owned" in text
    assert _is_inert(text.replace("\r", "").replace("\x1b[A", ""))
    for damaged in ({"class_names": [1, 2, 3]}, {"preprocessing": {"resize": 20_000}}):
        about["command_line"] = about["command_line"] | damaged
        dataclasses.replace(found, provenance=about).save(bank)
        assert main(words) == 1
        assert "the bank" in capfd.readouterr().err.splitlines()[-1]


def test_warnings_and_tables_are_inert_and_keep_letters(capsys):
    say(f"a {EVIL} \u4e2d\u6587 caf\u00e9 \U0001f468\u200d\U0001f469", quiet=False)
    text = capsys.readouterr().err
    assert _is_inert(text)
    assert text.count("\n") == 1
    assert text.endswith("\u4e2d\u6587 caf\u00e9 \U0001f468\u200d\U0001f469\n")
    assert len(table([("a\nb", "c"), ("d", "\x1b[1m")]).splitlines()) == 2


@pytest.mark.slow
def test_json_stays_json_whatever_the_names_are(place, capsys):
    draw(place / "pictures" / "cat" / "\x7f\x1b.png")
    found = answer_of(capsys, *_words("explain", place, place / "out"))
    assert "cat/\x7f\x1b.png" in [row["name"] for row in found["images"]]


@pytest.mark.slow
@pytest.mark.parametrize("words", [["info"], ["--help"], ["--print-completion", "bash"]])
def test_a_full_standard_output_is_one_clean_error(words, place):
    if words[0] == "info":
        words = ["info", f"{place / 'tiny_kmex.py'}:make", *GREY[:-3], *words[1:]]
    with Path("/dev/full").open("w") as full:
        run = subprocess.run(
            [sys.executable, "-m", "captum_kmex", *words],
            stdout=full, stderr=subprocess.PIPE, env=ENVIRONMENT, text=True, check=False,
        )  # fmt: skip
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    assert "Exception ignored" not in run.stderr
    assert "the answer cannot be written (No space left on device)" in run.stderr


@pytest.mark.slow
def test_an_encoding_that_lacks_letters_writes_them_out(place):
    run = subprocess.run(
        [sys.executable, "-m", "captum_kmex", "info", "caf\u00e9 \u4e2d:x"],
        capture_output=True, env=ENVIRONMENT | {"PYTHONIOENCODING": "ascii"}, check=False,
    )  # fmt: skip
    assert run.returncode in (1, 2)
    assert b"Traceback" not in run.stderr
    assert b"caf\\xe9" in run.stderr


@pytest.mark.parametrize("text", ["1e400GiB", "inf", "-1e999", "nan", "0", "-3GiB", "1e300", "0.4"])
def test_a_memory_budget_that_no_machine_has_is_malformed(text, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["fit", "torchvision:resnet18", "data", f"--memory-budget={text}"])
    assert "is no number of bytes" in capsys.readouterr().err
    assert byte_count("16GiB") == 2**34


def test_warnings_go_on_as_they_were(place):
    before = warnings.showwarning
    Image.new("L", (4, 4)).save(place / "one.png")
    main(["info", "nothing:here", "--quiet"])
    assert warnings.showwarning is before


@pytest.mark.parametrize("count", [1, 3], ids=["one picture", "several"])
def test_measured_evidence_is_explained_by_the_command(place, capsys, count):
    pictures = place / "pictures" / "cat"
    given = pictures / "0.png" if count == 1 else pictures
    words = ["explain", f"{place / 'tiny_kmex.py'}:make", given]
    words += [*GREY, "--output", place / "out", "--evidence", "measured", "--json"]
    assert main([*map(str, words)]) == 0
    found = capsys.readouterr()
    assert ("removing parts" in found.err) == (count == 1)
    rows = json.loads(found.out)["images"]
    assert len(rows) == count
    for row in rows:
        assert row["measured"] is True
        assert row["bias"] + row["evidence"] == pytest.approx(row["output"], abs=1e-5)
        manifest = json.loads((Path(row["folder"]) / "manifest.json").read_text())
        (image,) = manifest["images"]
        assert manifest["evidence"] == "measured"
        assert {"sufficient", "necessary"} <= image.keys()
        assert all(line["removed"] is not None for line in image["ledger"])
        assert Path(row["figure"]).stat().st_size > 10_000


def test_allocated_evidence_is_the_commands_default(place, capsys):
    words = ["explain", f"{place / 'tiny_kmex.py'}:make", place / "pictures" / "cat" / "0.png"]
    rows = answer_of(capsys, *words, *GREY, "--output", place / "out")["images"]
    assert [row["measured"] for row in rows] == [False]
    with pytest.raises(SystemExit, match="2"):
        main([*map(str, words), *GREY, "--evidence", "guessed"])
    assert "argument --evidence: invalid choice: 'guessed'" in capsys.readouterr().err
