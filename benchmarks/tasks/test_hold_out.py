from __future__ import annotations

from benchmarks.tasks.data.pictures import hold_out


def test_hold_out_takes_each_item_once() -> None:
    kept, held = hold_out(list("abcdefghijklmnopqrstu"), 10)
    assert len(held) == 2
    assert sorted(kept + held) == list("abcdefghijklmnopqrstu")
