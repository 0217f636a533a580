"""Options of a constructor as a bank keeps them, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from captum_kmex.attributions.prototype_attribution import Layer

__all__ = ["OWN_HEAD", "kept_counts", "name_of", "restored"]

OWN_HEAD = "<own>"  # no name of a module has such brackets


def kept_counts(n_prototypes: int | Mapping[int, int]) -> object:
    """Return numbers of prototypes, one or one a class, in a form that JSON holds."""
    return n_prototypes if isinstance(n_prototypes, int) else sorted(n_prototypes.items())


def restored(settings: Mapping[str, object], head: Layer | None) -> dict[str, Any]:
    """Return a bank's settings as arguments of the constructor.

    Raises:
        ValueError: The fit had a head of the user's own, which a bank does not hold.
    """
    k, named = settings.get("n_prototypes", 5), settings.get("head")
    if head is None and named == OWN_HEAD:
        raise ValueError("the bank was fitted with a head of your own; pass it again as head=")
    counts = k if isinstance(k, int) else dict(k)  # type: ignore[call-overload]
    return {**settings, "n_prototypes": counts, "head": named if head is None else head}


def name_of(kind: type) -> str:
    """Return the name of the package's class that an attribution is of, or of a subclass of."""
    own = (base for base in kind.__mro__ if base.__module__.startswith(f"{__package__}."))
    return next(own).__name__
