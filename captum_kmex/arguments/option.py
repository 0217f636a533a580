"""``Option``: what one public argument may be."""

from __future__ import annotations

from dataclasses import dataclass

from captum_kmex.arguments.kinds import Kind
from captum_kmex.arguments.misfits import Misfit

__all__ = ["REQUIRED", "Option"]

REQUIRED = object()  # has no default


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        kind: What it may be.
        default: What it is where it is left out. Where that is ``None``, ``None`` may be given;
            ``REQUIRED`` where there is none, or each callable has its own.
        remedy: What to do about a value that does not fit, if its kind does not say so.
    """

    kind: Kind
    default: object = REQUIRED
    remedy: str = ""

    def read(self, name: str, value: object, is_required: bool = False) -> object:
        """Return the value in its plainest form.

        Args:
            name: The argument.
            value: What was given.
            is_required: The callable has no default for it.

        Raises:
            TypeError: A value of another type; the message names what is allowed.
            ValueError: One that is out of range, malformed or none of the choices.
        """
        if value is None and self.default is None and not is_required:
            return None
        try:
            return self.kind.read(value)
        except Misfit as misfit:
            raise misfit.error(name, self.remedy) from None
