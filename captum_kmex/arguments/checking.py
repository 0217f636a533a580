"""``checked``: a public callable whose arguments are read by the table of options."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import ParamSpec, TypeVar

from captum_kmex.arguments.options import option_of
from captum_kmex.arguments.settings import check_settings
from captum_kmex.distributed import together

__all__ = ["checked", "checked_by_all"]

_PARTS = ("layer", "layers", "head")  # of the model, at which a constructor never looks
_P = ParamSpec("_P")
_R = TypeVar("_R")


def checked(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Wrap a callable so that it gets its arguments in their plainest form, or not at all.

    An argument is looked up in the table by the callable's name and its own, then by its own
    alone; one that is not there is passed on as it is. Defaults are not read. The settings of a
    method's object are read too, since they may have been changed.
    """
    return _checked(function, nullcontext)


def checked_by_all(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Do as ``checked`` for what all processes of a group call: what one refuses stops all."""
    return _checked(function, together)


def _checked(
    function: Callable[_P, _R], reading_within: Callable[[], AbstractContextManager[object]]
) -> Callable[_P, _R]:
    signature = inspect.signature(function)
    is_constructor = function.__name__ == "__init__"
    is_method = next(iter(signature.parameters), "") == "self" and not is_constructor
    options = {
        name: (option, parameter.default is inspect.Parameter.empty)
        for name, parameter in signature.parameters.items()
        if (option := option_of(name, function.__qualname__)) is not None
        and not (is_constructor and name in _PARTS)
    }

    def reading(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:  # Python's own words for a missing or unknown argument
            return function(*args, **kwargs)
        with reading_within():
            for name, (option, is_required) in options.items():
                if name in bound.arguments:
                    given = bound.arguments[name]
                    bound.arguments[name] = option.read(name, given, is_required)
            if is_method:
                check_settings(args[0])
        return function(*bound.args, **bound.kwargs)

    for name in functools.WRAPPER_ASSIGNMENTS:
        setattr(reading, name, getattr(function, name))
    # not by `__wrapped__`, under which Captum takes what is inside its log
    reading.__signature__ = signature  # type: ignore[attr-defined]
    return reading
