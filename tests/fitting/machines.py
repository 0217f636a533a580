"""Machines of a group as threads of this process, for what they join."""

from __future__ import annotations

import threading
from typing import TypeVar
from unittest import mock

from captum_kmex.fitting import state
from captum_kmex.fitting.state import State

_T = TypeVar("_T")


class _Group:
    """What ``captum_kmex.distributed`` does, among threads whose names are their ranks."""

    def __init__(self, size: int) -> None:
        self.size, self.told, self.meeting = size, {}, threading.Barrier(size, timeout=20)

    def rank(self) -> int:
        return int(threading.current_thread().name)

    def world_size(self) -> int:
        return self.size

    def gather(self, value: _T) -> list[_T]:
        self.told[self.rank()] = value
        self.meeting.wait()
        found = [self.told[rank] for rank in range(self.size)]
        self.meeting.wait()
        return found

    def gather_to(self, owner: int, value: _T) -> list[_T]:
        found = self.gather(value)
        return found if owner == self.rank() else []

    def add_up(self, tensor):
        return sum(self.gather(tensor.clone()))


def share(*machines: State) -> None:
    """Let each join, at the same time, what all have collected."""
    group, errors = _Group(len(machines)), []

    def work(machine: State) -> None:
        try:
            machine.share()
        except Exception as error:
            group.meeting.abort()
            errors.append(error)

    names = ("rank", "world_size", "gather", "gather_to", "add_up")
    with mock.patch.multiple(state, **{name: getattr(group, name) for name in names}):
        threads = [
            threading.Thread(target=work, args=(machine,), name=f"{rank}")
            for rank, machine in enumerate(machines)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    wrong = [error for error in errors if not isinstance(error, threading.BrokenBarrierError)]
    if wrong:
        raise wrong[0]
