"""What the machines of a ``torch.distributed`` group tell each other; alone, nothing is sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["add_up", "check_alike", "gather", "gather_to", "rank", "together", "world_size"]

_T = TypeVar("_T")
_SHOWN = 4  # values, and ranks of each
_SHOWN_LETTERS = 50


def world_size() -> int:
    """Return the number of processes that fit together, 1 without a group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number in the group, 0 without one."""
    return dist.get_rank() if world_size() > 1 else 0


def gather(value: _T) -> list[_T]:
    """Return every process's value, in the order of ranks, on every process."""
    if world_size() == 1:
        return [value]
    values: list[_T | None] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]  # all are filled by now


def gather_to(owner: int, value: _T) -> list[_T]:
    """Return every process's value on one of them, nothing on the others."""
    if world_size() == 1:
        return [value]
    values: list[_T | None] | None = [None] * world_size() if rank() == owner else None
    dist.gather_object(value, values, dst=owner)
    return values or []  # type: ignore[return-value]  # all are filled by now


def add_up(tensor: Tensor) -> Tensor:
    """Return the sum of every process's tensor, the same on every process."""
    if world_size() == 1:
        return tensor
    device = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
    total = tensor.to(device, copy=True)
    dist.all_reduce(total)
    return total.to(tensor.device)


@contextmanager
def together() -> Iterator[None]:
    """Let an error on one machine stop all of them; the others would wait for it in vain.

    What is done inside must not wait for other machines itself.

    Raises:
        RuntimeError: Another machine failed.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    reports = gather(None if failure is None else f"{type(failure).__name__}: {failure}")
    if failure is not None:
        try:
            raise failure
        finally:
            failure = None  # or this frame and the error would keep each other
    for number, report in enumerate(reports):
        if report is not None:
            raise RuntimeError(
                f"the fit failed on rank {number} of {len(reports)} ({report}); mend it there "
                "and call fit on all ranks again"
            )


def check_alike(identity: Mapping[str, object]) -> None:
    """Compare what must be equal on all machines; all of them must call this.

    Args:
        identity: This machine's, values by name; of an object among them each value counts.

    Raises:
        ValueError: Two machines differ; raised on all.
    """
    found = gather(_flat(identity))
    names = sorted(set().union(*found))
    differing = [_by_rank(name, found) for name in names if len(_ranks_of(name, found)) > 1]
    if differing:
        raise ValueError(
            f"the ranks of this fit differ in {'; '.join(differing)}. Give all ranks the same "
            "model with the same weights, the same options and parts of the same data"
        )


def _flat(values: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    texts: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            texts |= _flat(value, f"{prefix}{name}.")
        else:
            texts[prefix + name] = repr(value)
    return texts


def _ranks_of(name: str, found: list[dict[str, str]]) -> dict[str, list[int]]:
    """Return the ranks that have each value."""
    ranks: dict[str, list[int]] = {}
    for number, values in enumerate(found):
        ranks.setdefault(values.get(name, "nothing"), []).append(number)
    return ranks


def _by_rank(name: str, found: list[dict[str, str]]) -> str:
    parts = []
    for text, ranks in list(_ranks_of(name, found).items())[:_SHOWN]:
        word = "rank" if len(ranks) == 1 else "ranks"
        shown = text if len(text) <= _SHOWN_LETTERS else f"{text[:_SHOWN_LETTERS]}..."
        parts.append(f"{shown} on {word} {', '.join(map(str, ranks[:_SHOWN]))}")
    return f"{name} ({', '.join(parts)})"
