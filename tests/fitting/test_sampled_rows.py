"""A buffer of rows against a list of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from captum_kmex.fitting.sampled_rows import RowBuffer, SampledRows

ROOM = 11


def rows_of(keys: Tensor, has_places: bool) -> SampledRows:
    """Return rows in which every field tells the key."""
    places = keys[:, None] * torch.arange(1, 6) if has_places else None
    return SampledRows(keys[:, None] * torch.ones(3), keys, 2 * keys, 0.5 * keys, places)


def assert_holds(buffer: RowBuffer, keys: set[int], has_places: bool) -> None:
    held = buffer.rows()
    assert len(buffer) == len(held) == len(keys)
    assert set(held.keys.tolist()) == keys
    for name, expected in rows_of(held.keys, has_places).fields().items():
        assert torch.equal(held.fields()[name], expected), name
    assert (held.places is None) is not has_places


@pytest.mark.parametrize("has_places", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_buffer_holds_what_was_put_and_kept(seed, has_places):
    generator = torch.Generator().manual_seed(seed)
    buffer, expected, fresh = RowBuffer(ROOM), set[int](), 0
    for _ in range(30):
        count = int(torch.randint(0, 2 * ROOM, (1,), generator=generator))
        keys = torch.arange(fresh, fresh + count)
        fresh += count
        left = buffer.put(rows_of(keys, has_places))
        taken = min(count, ROOM - len(expected))
        assert left.keys.tolist() == keys[taken:].tolist()
        expected |= set(keys[:taken].tolist())
        assert_holds(buffer, expected, has_places)
        is_kept = torch.rand(len(buffer), generator=generator) < 0.6
        expected = set(buffer.rows().keys[is_kept].tolist())
        buffer.keep(is_kept.nonzero().squeeze(1))
        assert_holds(buffer, expected, has_places)


@pytest.mark.parametrize("kept", [[], [0], [10], [3, 4, 5], list(range(ROOM)), [0, 9, 10]])
def test_any_rows_can_be_kept(kept):
    buffer = RowBuffer(ROOM)
    buffer.put(rows_of(torch.arange(ROOM), has_places=True))
    buffer.keep(torch.tensor(kept, dtype=torch.int64))
    assert_holds(buffer, set(kept), has_places=True)


def test_buffer_is_written_in_place():
    buffer = RowBuffer(ROOM)
    buffer.put(rows_of(torch.arange(4), has_places=True))
    before = buffer.rows().rows.data_ptr()
    for start in range(4, 60, 7):
        buffer.put(rows_of(torch.arange(start, start + 7), has_places=True))
        buffer.keep(torch.arange(len(buffer))[::3])
    assert buffer.rows().rows.data_ptr() == before


def test_empty_buffer_has_no_rows():
    buffer = RowBuffer(ROOM)
    buffer.keep(torch.arange(0))
    assert buffer.rows() is None
    assert len(buffer) == 0
