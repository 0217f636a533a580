"""Tensors are written whole or not at all, and read with a message for what is wrong."""

from __future__ import annotations

import json
import os
import stat
import tracemalloc

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from captum_kmex.files.tensor_file import _checksum, read_tensors, write_tensors

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

    monkeypatch.setattr("captum_kmex.files.tensor_file.save_file", fail)
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


# ---------------------------------------------------------------- content


def test_tensors_are_copies(path):
    tensors, _ = read(path)
    os.truncate(path, 10)  # pages of a mapped file would be gone, and the process with them
    assert tensors["a"].tolist() == [0, 1, 2, 3]
    tensors["a"][0] = 7


def test_tensors_do_not_follow_the_file(path):
    tensors, _ = read(path)
    path.write_bytes(bytes(path.stat().st_size))
    assert tensors["a"].tolist() == [0, 1, 2, 3]


def every_bit(content: bytes):
    for place in range(len(content)):
        for bit in range(8):
            yield content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def test_no_flipped_bit_goes_unnoticed(path):
    """But in the blanks that fill up the header, which say nothing."""
    for content in every_bit(path.read_bytes()):
        path.write_bytes(content)
        found, messages = [], []
        try:
            found.append(read(path))
        except ValueError as error:
            messages.append(str(error))
        assert all(str(path) in m and ("again" in m or "another path" in m) for m in messages)
        assert all(header == HEADER for _, header in found)
        assert all(torch.equal(tensors["a"], torch.arange(4)) for tensors, _ in found)


@pytest.mark.parametrize(
    "tensors",
    [
        {"a": torch.arange(4).flip(0)},
        {"a": torch.arange(4, dtype=torch.int32)},
        {"a": torch.arange(4).view(2, 2)},
        {"b": torch.arange(4)},
        {},
        {"a": torch.arange(4), "b": torch.zeros(0)},
    ],
    ids=["values", "type", "shape", "name", "missing", "extra"],
)
def test_other_content_under_the_same_checksum_is_refused(path, tensors):
    checksum = _checksum(HEADER, {"a": torch.arange(4)})
    save_file(tensors, path, {NAME: json.dumps(HEADER | {"sha256": checksum})})
    with pytest.raises(ValueError, match="damaged: its content is not what was written"):
        read(path)


def test_file_without_checksum_is_refused(path):
    save_file({"a": torch.zeros(1)}, path, {NAME: json.dumps(HEADER)})
    with pytest.raises(ValueError, match="damaged: it lacks its checksum; write it again"):
        read(path)


SCHEMAS = {1: False, 2: True}


@pytest.mark.parametrize("version", [None, 0, 3, "2", 2.0, True, [2], 10**30, {}])
def test_other_schemas_are_refused(path, version):
    write_tensors(path, {}, NAME, {"schema_version": version})
    with pytest.raises(ValueError, match=r"has schema version .*, this release reads 1 and 2; upg"):
        read_tensors(path, NAME, KIND, REMEDY, schemas=SCHEMAS)


@pytest.mark.parametrize("checksum", ["0" * 64, "", None, 5, []])
def test_wrong_checksum_is_refused_in_every_schema(path, checksum):
    for version in SCHEMAS:
        header = {"schema_version": version, "sha256": checksum}
        save_file({"a": torch.zeros(1)}, path, {NAME: json.dumps(header)})
        if version == 1 and checksum is None:
            continue
        with pytest.raises(ValueError, match="is damaged"):
            read_tensors(path, NAME, KIND, REMEDY, schemas=SCHEMAS)


BOMBS = {
    "nested_lists": '{"a": ' + "[" * 200_000 + "]" * 200_000 + "}",
    "nested_objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "many_lists": '{"a": [' + "[]," * 2**21 + "[]]}",
    "many_objects": '{"a": [' + "{}," * 2**21 + "{}]}",
    "huge_integer": '{"a": 1' + "0" * 100_000 + "}",
    "huge_float": '{"a": 1e999}',
    "nan": '{"a": NaN}',
    "infinity": '{"a": -Infinity}',
    "twice": '{"a": 1, "b": {"c": 1, "c": 2}}',
    "no_object": "[1]",
    "number": "7",
    "null": "null",
    "text": '"a"',
    "nothing": "",
    "trailing": '{"a": 1} {}',
    "control": '{"a": "\n"}',
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS.keys())
def test_headers_that_we_never_write_are_refused_at_little_cost(tmp_path, text):
    save_file({"a": torch.zeros(1)}, tmp_path / "x", {NAME: text})
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"has a damaged header .*; write it again"):
            read(tmp_path / "x")
        assert tracemalloc.get_traced_memory()[1] < 2 * len(text) + 2**20
    finally:
        tracemalloc.stop()


def safetensors_of(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


@pytest.mark.parametrize(
    "content",
    [
        (2**63).to_bytes(8, "little") + b"{}",
        (2**40).to_bytes(8, "little") + b"{}",
        safetensors_of(b"\xff\xfe{}"),
        safetensors_of(
            b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4]}}', bytes(4)
        ),
        safetensors_of(
            b'{"a":{"dtype":"F32","shape":[4294967296,4294967296,2],"data_offsets":[0,0]}}'
        ),
        safetensors_of(b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', bytes(4)),
        safetensors_of(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}', bytes(4)),
        safetensors_of(b'{"a":{"dtype":"WHAT","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
        safetensors_of(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,99]}}', bytes(4)),
        safetensors_of(b'{"__metadata__":{"notes":{}}}'),
        safetensors_of(b"[" * 100_000),
    ],
)
def test_files_that_are_none_of_safetensors_are_refused(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"x is truncated or no safetensors file .*; write it again"
    ):
        read(tmp_path / "x")


@pytest.mark.parametrize(
    "about",
    [
        '"dtype":"F32","shape":[0,9000000000000000000]',
        '"dtype":"F32","shape":[0' + ",1" * 99 + "]",
        '"dtype":"C64","shape":[0]',
        '"dtype":"F8_E4M3","shape":[0]',
    ],
)
def test_empty_tensors_of_impossible_kinds_are_refused(tmp_path, about):
    note = json.dumps({NAME: "{}"})
    header = f'{{"__metadata__":{note},"a":{{{about},"data_offsets":[0,0]}}}}'
    (tmp_path / "x").write_bytes(safetensors_of(header.encode()))
    with pytest.raises(
        ValueError, match=r"x is (damaged: it holds a tensor 'a'|trunc).*; write it"
    ):
        read(tmp_path / "x")


def test_more_tensors_than_a_kind_has_are_refused(tmp_path):
    write_tensors(tmp_path / "x", {str(i): torch.zeros(0) for i in range(9)}, NAME, {})
    with pytest.raises(ValueError, match="it holds 9 tensors, of at most 8; write it again"):
        read_tensors(tmp_path / "x", NAME, KIND, REMEDY, most=8)


def test_header_with_nan_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_tensors(tmp_path / "x", {}, NAME, {"what": float("nan")})
    assert os.listdir(tmp_path) == []


def test_folder_is_the_systems_error(tmp_path):
    with pytest.raises(IsADirectoryError):
        read(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_unreadable_file_is_the_systems_error(path):
    path.chmod(0)
    with pytest.raises(PermissionError):
        read(path)


@pytest.mark.parametrize("name", [b"caf\xe9", b"caf\xe9/notes"], ids=["file", "folder"])
def test_path_that_is_no_utf8_is_named_as_the_reason(tmp_path, name):
    """Such a file can be written, and read under another name."""
    path = tmp_path / os.fsdecode(name)
    path.parent.mkdir(exist_ok=True)
    write_tensors(path, {"a": torch.arange(4)}, NAME, HEADER)
    with pytest.raises(ValueError, match="reads only paths that are valid UTF-8; rename"):
        read(path)
    os.replace(path, tmp_path / "notes")
    assert read(tmp_path / "notes")[1] == HEADER
