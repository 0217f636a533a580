"""``Setting``: an option that a constructor stores and that may be changed afterwards."""

from __future__ import annotations

from typing import Generic, TypeVar, cast

from captum_kmex.arguments.options import read_option

__all__ = ["Setting", "check_settings"]

_T = TypeVar("_T")


class Setting(Generic[_T]):
    """An attribute that is kept as it was given and read by the table at every use.

    So a bad value raises whether the constructor got it or somebody set it later.
    """

    def __init__(self) -> None:
        self.__doc__ = None  # else each setting would show this class's in the manual

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> _T:
        if instance is None:  # the class itself is asked
            return cast("_T", self)
        given = vars(instance)[self._name]
        return cast("_T", read_option(self._name, given, owner.__name__))

    def __set__(self, instance: object, value: object) -> None:
        vars(instance)[self._name] = value


def check_settings(instance: object) -> None:
    """Read all settings of an object, whether what follows needs them or not.

    Raises:
        TypeError: A value of another type.
        ValueError: One that is out of range, malformed or none of the choices.
    """
    for kind in type(instance).__mro__:
        for name, found in vars(kind).items():
            if isinstance(found, Setting):
                getattr(instance, name)
