"""Rows of one class with what is kept beside each, and a buffer that holds them in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["RowBuffer", "SampledRows"]

_FIELDS = ("rows", "keys", "tags", "masses", "places")


@dataclass(frozen=True)
class SampledRows:
    """Rows of one class, as they are kept.

    Attributes:
        rows: Float tensor (M, D).
        keys: Integer tensor (M,), the rows' random numbers in [0, 2^63).
        tags: Integer tensor (M,), kept beside each row.
        masses: Float tensor (M,), what a row's chance grows with; 0 in a uniform sample.
        places: Integer tensor (M, 1 + 2 d), image and box of each row, as of ``places``;
            ``None`` where nobody will ask.
    """

    rows: Tensor
    keys: Tensor
    tags: Tensor
    masses: Tensor
    places: Tensor | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def fields(self) -> dict[str, Tensor]:
        """Return the tensors that there are, by name."""
        return {name: tensor for name, tensor in vars(self).items() if tensor is not None}

    def at(self, index: Tensor | slice) -> SampledRows:
        """Return chosen rows."""
        return SampledRows(**{name: tensor[index] for name, tensor in self.fields().items()})

    def to(self, device: torch.device, *, copy: bool = False) -> SampledRows:
        """Return the rows on a device, in memory of their own if ``copy``."""
        fields = self.fields().items()
        return SampledRows(**{name: tensor.to(device, copy=copy) for name, tensor in fields})

    @classmethod
    def of(cls, saved: Mapping[str, Tensor]) -> SampledRows:
        """Return the rows whose tensors were saved by these names."""
        return cls(**{name: saved[name] for name in _FIELDS if name in saved})

    @classmethod
    def joined(cls, parts: Sequence[SampledRows]) -> SampledRows:
        """Return the rows of several parts together."""
        every = [part.fields() for part in parts]
        return cls(**{name: torch.cat([own[name] for own in every]) for name in every[0]})


class RowBuffer:
    """Rows that are added and dropped in place, so that memory depends on their number alone.

    Tensors that are joined and cut at every turn leave holes in the heap, which took more than
    the rows themselves.

    Args:
        room: Most rows held.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self._count = 0
        self._held: SampledRows | None = None

    def __len__(self) -> int:
        return self._count

    def rows(self) -> SampledRows | None:
        """Return what is held, as views; ``None`` before the first row."""
        return None if self._held is None else self._held.at(slice(self._count))

    def put(self, offered: SampledRows) -> SampledRows:
        """Take in as many rows as there is room for, and return the rest."""
        taken = offered.at(slice(self.room - self._count))
        stop = self._count + len(taken)
        held = self._grown(stop, offered).fields()
        for name, tensor in taken.fields().items():
            held[name][self._count : stop] = tensor
        self._count = stop
        return offered.at(slice(len(taken), None))

    def keep(self, index: Tensor) -> None:
        """Drop all rows but those of an ascending index; later ones move into the gaps."""
        if self._held is None:
            return
        count = len(index)
        is_kept = torch.zeros(self._count, dtype=torch.bool, device=index.device)
        is_kept[index] = True
        gaps = (~is_kept[:count]).nonzero().squeeze(1)
        movers = index[index >= count]
        for tensor in self._held.fields().values():
            tensor[gaps] = tensor[movers]
        self._count = count

    def _grown(self, count: int, like: SampledRows) -> SampledRows:
        """Return tensors of at least ``count`` rows, with those held so far in front."""
        size = 0 if self._held is None else len(self._held)
        if self._held is None or size < count:
            # on the CPU, what is never written takes no memory, and growing would leave holes
            is_lazy = like.rows.device.type == "cpu"
            larger = self.room if is_lazy else min(self.room, max(count, 2 * size))
            fields = like.fields().items()
            grown = {name: x.new_empty((larger, *x.shape[1:])) for name, x in fields}
            if self._held is not None:
                for name, tensor in self._held.fields().items():
                    grown[name][:size] = tensor
            self._held = SampledRows(**grown)
        return self._held
