"""The timing protocol on stopwatches that say what they are told to."""

from __future__ import annotations

from benchmarks.timing import Quartiles, Stopwatch, interleave, ratios


def test_interleave_reverses_the_order_every_round() -> None:
    ran: list[str] = []

    def watch(name: str) -> Stopwatch:
        def run() -> float:
            ran.append(name)
            return 1.0

        return run

    seconds = interleave({name: watch(name) for name in "ab"}, 3, warm_up=False)
    assert "".join(ran) == "abbaab"
    assert seconds == {"a": [1.0] * 3, "b": [1.0] * 3}


def test_interleave_does_not_count_the_warm_up() -> None:
    found = iter([100.0, 1.0, 2.0])
    assert interleave({"a": lambda: next(found)}, 2) == {"a": [1.0, 2.0]}


def test_ratios_are_taken_round_by_round() -> None:
    # a machine that is ten times slower in the last round changes no ratio
    found = ratios({"subject": [2.0, 4.0, 30.0], "base": [1.0, 2.0, 10.0]}, "subject")
    assert found == {"base": Quartiles(median=2.0, low=2.0, high=2.5, rounds=3)}
