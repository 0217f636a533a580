"""Digests of batches: an interrupted fit goes on only with the images and labels it began with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["MARK_SIZE", "BatchMarks"]

MARK_SIZE = 32  # bytes of a SHA-256
_Split = tuple[tuple[Tensor, ...], Tensor | None]


class BatchMarks:
    """A digest of the first and last image and label of each batch of the first pass.

    Args:
        path: The checkpoint, for messages.
        known: Byte tensor (B, ``MARK_SIZE``), digests of the batches of an interrupted fit.
    """

    def __init__(self, path: Path, known: Tensor | None = None) -> None:
        self._path = path
        self._marks = bytearray() if known is None else bytearray(known.numpy().tobytes())
        self.n_known = len(self)

    def __len__(self) -> int:
        return len(self._marks) // MARK_SIZE

    def note(self, number: int, inputs: tuple[Tensor, ...], targets: Tensor | None) -> None:
        """Compare a batch with that of the interrupted fit, or keep its digest.

        Raises:
            ValueError: It is another batch.
        """
        if number < self.n_known:
            if not self.is_known(number, inputs, targets):
                raise ValueError(self._message(f"batch {number + 1} is not"))
        elif number == len(self):
            self._marks += _digest(inputs, targets)

    def is_known(self, number: int, inputs: tuple[Tensor, ...], targets: Tensor | None) -> bool:
        """Whether a batch, or its first and last item alone, is that of the interrupted fit."""
        known = self._marks[number * MARK_SIZE : (number + 1) * MARK_SIZE]
        return known == _digest(inputs, targets)

    def compare_ends(
        self,
        batches: Iterable[list[int]],
        count: int,
        read: Callable[[list[list[int]]], Iterator[_Split]],
    ) -> None:
        """Compare a loader's first batches by their first and last items.

        Args:
            batches: Indices of the loader's batches.
            count: How many to compare, if as many are known.
            read: Gives inputs and labels of batches of other indices.

        Raises:
            ValueError: One is another batch.
        """
        drawn = list(islice(batches, min(count, self.n_known)))
        ends = [[batch[0], batch[-1]][: len(batch)] for batch in drawn]
        for number, (inputs, targets) in enumerate(read(ends)):
            if not self.is_known(number, inputs, targets):
                # items may be collated to the size of the largest in their batch
                for whole in read([drawn[number]]):
                    self.note(number, *whole)

    def end(self, count: int) -> None:
        """Compare the number of batches with that of the interrupted fit.

        Raises:
            ValueError: There were fewer.
        """
        if count < self.n_known:
            raise ValueError(self._message(f"the loader ends after batch {count}, which is not"))

    def state(self) -> Tensor:
        """Return the digests (B, ``MARK_SIZE``), to save."""
        return torch.tensor(self._marks, dtype=torch.uint8).view(-1, MARK_SIZE)

    def _message(self, what: str) -> str:
        return (
            f"{what} what the checkpoint {self._path} was made of (by its first and last image and "
            "label); pass the data, labels and preprocessing of the interrupted fit in the same "
            "order, without random augmentation, which draws other images, or delete the checkpoint"
        )


def _digest(inputs: tuple[Tensor, ...], targets: Tensor | None) -> bytes:
    digest = hashlib.sha256()
    tensors = inputs if targets is None else (*inputs, targets)
    for item in _ends(tensors, len(inputs[0])):
        flat = item.detach().cpu().contiguous().flatten()
        digest.update(f"{item.dtype}{tuple(item.shape)};".encode())
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.digest()


def _ends(tensors: tuple[Tensor, ...], count: int) -> Iterator[Tensor]:
    """Yield the first and the last item of each tensor; all of one that has no item an image."""
    for tensor in tensors:
        if tensor.ndim and count and len(tensor) == count:
            yield tensor[0]
            yield tensor[-1]
        else:
            yield tensor
