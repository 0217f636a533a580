"""Copies of models, also of those that hold tensors computed from their parameters."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import TypeVar

from torch import Tensor, nn

__all__ = ["copied"]

_Module = TypeVar("_Module", bound=nn.Module)


def copied(model: _Module, memo: Mapping[int, object] | None = None) -> _Module:
    """Copy a model with all that it holds.

    Pruned, weight-normed and spectral-normed layers keep the weight that was last computed from
    their parameters, and others keep activations. ``deepcopy`` refuses such tensors, which have a
    gradient's history; the copy gets their values, and its layers compute them anew.

    Args:
        model: The model.
        memo: What stands in the copy in place of objects, by their ids.
    """
    computed = {id(tensor): tensor.detach().clone() for tensor in _computed_tensors(model)}
    return copy.deepcopy(model, {**computed, **(memo or {})})


def _computed_tensors(model: nn.Module) -> Iterator[Tensor]:
    """Yield the tensors among the modules' attributes that are no leaves."""
    seen: set[int] = set()
    todo: list[object] = [vars(module) for module in model.modules()]
    while todo:
        value = todo.pop()
        if isinstance(value, Tensor):
            if not value.is_leaf:
                yield value
        elif isinstance(value, (dict, list, tuple, set)) and id(value) not in seen:
            seen.add(id(value))
            todo += value.values() if isinstance(value, dict) else value
