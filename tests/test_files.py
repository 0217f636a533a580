"""Files are replaced whole or not at all, and read with a message for what is wrong."""

from __future__ import annotations

import os
import stat

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from captum_kmex.files import discard_unfinished, read_tensors, write_tensors

NAME, KIND, REMEDY = "notes", "file of notes", "write it again"
HEADER = {"title": "ä ≤ 1", "sizes": [1, 2], "empty": None}


@pytest.fixture
def path(tmp_path):
    write_tensors(tmp_path / "file", {"a": torch.arange(4)}, NAME, HEADER)
    return tmp_path / "file"


def read(path):
    return read_tensors(path, NAME, KIND, REMEDY)


def test_tensors_and_header_come_back(tmp_path):
    wanted = {
        "float": torch.rand(2, 3),
        "double": torch.rand(1, dtype=torch.float64),
        "half": torch.rand(4).half(),
        "count": torch.tensor(7),
        "flags": torch.tensor([True, False]),
        "none": torch.zeros(0, 5),
        "none_either": torch.zeros(0, dtype=torch.int64),
    }
    write_tensors(tmp_path / "x", wanted, NAME, HEADER)
    found, header = read(tmp_path / "x")
    assert header == HEADER
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_views_of_strided_tensors_are_written_as_they_look(tmp_path):
    table = torch.arange(12.0).view(3, 4)
    write_tensors(tmp_path / "x", {"turned": table.T, "column": table[:, 1]}, NAME, {})
    found, _ = read(tmp_path / "x")
    assert torch.equal(found["turned"], table.T)
    assert torch.equal(found["column"], table[:, 1])


def test_tensors_with_a_graph_are_written(tmp_path):
    write_tensors(tmp_path / "x", {"w": torch.ones(2, requires_grad=True)}, NAME, {})
    assert not read(tmp_path / "x")[0]["w"].requires_grad


def test_same_content_gives_same_bytes(path, tmp_path):
    write_tensors(tmp_path / "again", {"a": torch.arange(4)}, NAME, HEADER)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_file_has_the_rights_of_any_new_file(path, tmp_path):
    (tmp_path / "plain").touch()
    expected = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert stat.S_IMODE(path.stat().st_mode) == expected


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left"), KeyboardInterrupt()], ids=repr)
def test_failure_leaves_the_old_file_alone(path, monkeypatch, function, error):
    before = path.read_bytes()

    def fail(*_):
        raise error

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(type(error)):
        write_tensors(path, {"a": torch.zeros(9)}, NAME, {})
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["file"]


def test_failure_of_safetensors_is_an_os_error(path, monkeypatch):
    def fail(*_):
        raise SafetensorError("I/O error")

    monkeypatch.setattr("captum_kmex.files.save_file", fail)
    with pytest.raises(OSError, match=r"cannot be written \(I/O error\)"):
        write_tensors(path, {}, NAME, {})
    assert os.listdir(path.parent) == ["file"]


def test_missing_folder_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_tensors(tmp_path / "nowhere" / "x", {}, NAME, {})


def test_header_that_is_no_json_leaves_nothing(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_tensors(tmp_path / "x", {}, NAME, {"what": object()})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("length", [0, 4, 30, -1])
def test_truncated_file_is_refused_with_the_remedy(path, length):
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"truncated or no safetensors file .*; write it again"):
        read(path)


def test_file_of_another_kind_is_refused(path):
    with pytest.raises(ValueError, match="but no file of recipes; pass another path"):
        read_tensors(path, "recipes", "file of recipes", REMEDY)


def test_file_without_any_header_is_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "x")
    with pytest.raises(ValueError, match="but no file of notes; pass another path"):
        read(tmp_path / "x")


def test_damaged_header_is_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "x", {NAME: "{"})
    with pytest.raises(ValueError, match=r"has a damaged header .*; write it again"):
        read(tmp_path / "x")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="x"):
        read(tmp_path / "x")


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
