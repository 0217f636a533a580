"""Images in the space of a method's prototypes."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.quality.method import Method, UnavailableError
from benchmarks.quality.task import LabelledData, Task
from captum_kmex import ClassifierPrototypes
from captum_kmex.exceptions import HeadNotFoundError
from captum_kmex.metrics import pooled_embeddings

__all__ = ["embed", "embed_test", "network_embedding"]


def network_embedding(task: Task, inputs: Tensor) -> Tensor:
    """Return the pooled map (N, D) that the network's head reads."""
    device = next(task.model.parameters()).device
    labels = torch.zeros(len(inputs), dtype=torch.int64)  # asked for, and of no use here
    batch = (inputs.to(device), labels.to(device))
    try:
        rows, _ = pooled_embeddings(ClassifierPrototypes(task.model), [batch])
    except HeadNotFoundError as error:
        raise UnavailableError(f"the network has no pooled linear head: {error}") from error
    return rows


def embed(method: Method, task: Task, inputs: Tensor) -> Tensor:
    """Return images (N, D) in the space of a method's prototypes: its own, or the network's."""
    try:
        return method.embed(inputs).detach().cpu()
    except UnavailableError:
        return network_embedding(task, inputs)


def embed_test(method: Method, task: Task) -> tuple[Tensor, Tensor]:
    """Return the labelled test images (M, D) and their classes (M,).

    Raises:
        UnavailableError: The task has none.
    """
    if task.test is None:
        raise UnavailableError("the task has no labelled test images")
    try:
        return _rows(task.test, method.embed)
    except UnavailableError:
        return _network_test(task)


@lru_cache(maxsize=1)
def _network_test(task: Task) -> tuple[Tensor, Tensor]:
    """Return what most methods share: the network's own embeddings."""
    if task.test is None:
        raise UnavailableError("the task has no labelled test images")
    return _rows(task.test, lambda x: network_embedding(task, x))


def _rows(data: LabelledData, embedding: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    parts = [(embedding(x).detach().cpu(), y) for x, y in DataLoader(data, 100)]
    rows, labels = zip(*parts, strict=True)
    return torch.cat(rows), torch.cat(labels)
