"""Fill the columns that a method can fill."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from benchmarks.quality.measure import Answers
from benchmarks.quality.method import UnavailableError

__all__ = ["fill"]

Score = Callable[..., Tensor]  # takes the answers of one method, or of two


def fill(scores: Mapping[str, Score], *answers: Answers, reason: str) -> dict[str, Tensor]:
    """Return the columns that are available, by key.

    Args:
        scores: What gives each column, or raises ``UnavailableError``.
        answers: What each is called with.
        reason: Why, if no column is available.

    Raises:
        UnavailableError: None is.
    """
    tried = {key: _attempt(score, answers) for key, score in scores.items()}
    found = {key: values for key, values in tried.items() if values is not None}
    if not found:
        raise UnavailableError(reason)
    return found


def _attempt(score: Score, answers: tuple[Answers, ...]) -> Tensor | None:
    try:
        return score(*answers)
    except UnavailableError:
        return None
