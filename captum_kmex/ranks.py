"""What the machines of a ``torch.distributed`` group tell each other; alone, nothing is sent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["add_up", "gather", "gather_to", "rank", "together", "world_size"]

_T = TypeVar("_T")


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
        raise failure
    for number, report in enumerate(reports):
        if report is not None:
            raise RuntimeError(
                f"the fit failed on rank {number} of {len(reports)} ({report}); mend it there "
                "and call fit on all ranks again"
            )
