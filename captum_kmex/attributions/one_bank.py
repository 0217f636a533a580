"""One bank a call: a fit that ends in another thread does not change what a call computes with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from types import MappingProxyType
from typing import ParamSpec, TypeVar

from captum_kmex.bank.prototype_bank import PrototypeBank

__all__ = ["bank_of", "one_bank", "one_bank_a_call"]

_P = ParamSpec("_P")
_R = TypeVar("_R")
_Banks = Mapping[int, PrototypeBank | None]
_banks: ContextVar[_Banks] = ContextVar("_banks", default=MappingProxyType({}))


def bank_of(attribution: object) -> PrototypeBank | None:
    """Return the bank that the present call works with, else the attribution's own."""
    own: PrototypeBank | None = getattr(attribution, "own_bank", None)
    return _banks.get().get(id(attribution), own)


@contextmanager
def one_bank(attribution: object) -> Iterator[None]:
    """Work with the bank, or the lack of one, that an attribution has now.

    What is called inside works with the same; other threads are not concerned.

    Args:
        attribution: Any attribution, fitted or not.
    """
    banks = _banks.get()
    token = _banks.set({**banks, id(attribution): bank_of(attribution)})
    try:
        yield
    finally:
        _banks.reset(token)


def one_bank_a_call(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let a method, or a function whose first argument is ``attribution``, see one bank."""

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with one_bank(args[0] if args else kwargs.get("attribution")):
            return function(*args, **kwargs)

    return call
