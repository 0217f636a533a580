"""What is written beside a path is hidden, locked, and removed whoever dies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from captum_kmex.files.atomic import written_whole
from captum_kmex.files.folders import folder_written_whole, repair
from captum_kmex.files.workplace import discard_unfinished


@pytest.fixture
def path(tmp_path) -> Path:
    (tmp_path / "file").write_text("old")
    return tmp_path / "file"


def test_unfinished_files_are_discarded_and_no_others(path):
    mark = "0123456789abcdef" * 2
    others = [f".file2.{mark}", f".file.rank1.{mark}", ".file.notes", f"file.{mark}"]
    for name in [*others, f".file.{mark}"]:
        (path.parent / name).touch()
    discard_unfinished(path)
    assert sorted(os.listdir(path.parent)) == sorted([*others, "file"])


def test_special_characters_of_a_name_stand_for_themselves(tmp_path):
    mark = "0" * 32
    (tmp_path / f".a.{mark}").touch()
    (tmp_path / f".[ab].{mark}").touch()
    discard_unfinished(tmp_path / "[ab]")
    assert os.listdir(tmp_path) == [f".a.{mark}"]


@pytest.mark.parametrize("size", [201, 255], ids=["long", "longest"])
def test_long_names_are_written_and_their_remains_discarded(tmp_path, size):
    path = tmp_path / ("a" * size)
    with written_whole(path) as beside:
        left = beside.parent
    left.mkdir()
    discard_unfinished(path)
    assert os.listdir(tmp_path) == [path.name]


def remains(path: Path) -> Path:
    """What a process that was killed while writing leaves, with a library's own file in it."""
    left = path.with_name(f".{path.name}.{'0123456789abcdef' * 2}")
    left.mkdir()
    for name in ("lock", "file", ".tmpA1b2C3"):
        (left / name).touch()
    return left


def test_remains_of_a_killed_process_are_discarded_with_all_that_is_in_them(path):
    left = remains(path)
    discard_unfinished(path)
    assert not left.exists()
    assert os.listdir(path.parent) == ["file"]


def test_what_is_being_written_stays(path):
    with written_whole(path) as beside:
        discard_unfinished(path)
        assert beside.exists()
    assert os.listdir(path.parent) == ["file"]


def test_remains_that_cannot_be_deleted_are_left(path, monkeypatch):
    left = remains(path)

    def fail(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("captum_kmex.files.workplace.take_lock", fail)
    discard_unfinished(path)
    assert left.exists()


def test_file_is_there_once_it_is_written(path):
    with written_whole(path) as beside:
        beside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["file"]


# ---------------------------------------------------------------- folders


@pytest.fixture(params=[True, False], ids=["exchange", "two steps"])
def folder(request, tmp_path, monkeypatch) -> Path:
    if not request.param:
        monkeypatch.setattr("captum_kmex.files.folders._exchanged", lambda *_: False)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_text("old")
    return tmp_path / "folder"


def test_folder_is_replaced_with_all_that_is_in_it(folder):
    with folder_written_whole(folder) as work:
        (work / "b").write_text("new")
        assert os.listdir(folder) == ["a"]
    assert os.listdir(folder) == ["b"]
    assert os.listdir(folder.parent) == ["folder"]


def test_folder_survives_an_error(folder):
    with pytest.raises(KeyboardInterrupt), folder_written_whole(folder):
        raise KeyboardInterrupt
    assert (folder / "a").read_text() == "old"
    assert os.listdir(folder.parent) == ["folder"]


def test_folder_survives_an_error_of_its_replacement(folder, monkeypatch):
    calls, rename = [], Path.rename

    def fail(self, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    monkeypatch.setattr("captum_kmex.files.folders._exchanged", lambda *_: False)
    with pytest.raises(OSError, match="No space left"), folder_written_whole(folder) as work:
        (work / "b").touch()
    assert os.listdir(folder) == ["a"]


@pytest.mark.parametrize("is_there", [True, False], ids=["there", "moved_aside"])
def test_repair_moves_back_what_was_aside_if_nothing_is_there(tmp_path, is_there):
    left = remains(tmp_path / "folder")
    (left / "old").mkdir()
    (left / "old" / "a").touch()
    if is_there:
        (tmp_path / "folder").mkdir()
    repair(tmp_path / "folder")
    assert os.listdir(tmp_path) == ["folder"]
    assert os.listdir(tmp_path / "folder") == ([] if is_there else ["a"])


def test_repair_leaves_what_is_being_written(folder):
    with folder_written_whole(folder) as work:
        repair(folder)
        assert work.exists()
