"""Import paths that releases before the wings documented; they go on working."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["MOVED", "keep_old_paths"]

MOVED = {
    "captum_kmex.activations": "captum_kmex.model.activations",
    "captum_kmex.embedding": "captum_kmex.metrics.embedding",
    "captum_kmex.fitted": "captum_kmex.attributions.fitted_attribution",
    "captum_kmex.layer_suggestion": "captum_kmex.model.layer_suggestion",
    "captum_kmex.ledger": "captum_kmex.explaining.ledger",
    "captum_kmex.representatives": "captum_kmex.bank.representatives",
    "captum_kmex.surrogate": "captum_kmex.bank.ridge_head",
    "captum_kmex.wins": "captum_kmex.metrics.wins",
}


class _Alias(Loader):
    """A module that holds the public names of another."""

    def exec_module(self, module: ModuleType) -> None:
        """Fill an alias."""
        found = import_module(MOVED[module.__name__])
        names = {name: getattr(found, name) for name in found.__all__}
        vars(module).update(names, __all__=list(names), __doc__=found.__doc__)


class _OldPaths(MetaPathFinder):
    """Finds the aliases, after everything that is really there."""

    def find_spec(
        self, name: str, _path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return an alias for a path that has moved."""
        return ModuleSpec(name, _Alias()) if name in MOVED else None


def keep_old_paths() -> None:
    """Let the old paths be imported; they cost nothing until they are."""
    if not any(isinstance(finder, _OldPaths) for finder in sys.meta_path):
        sys.meta_path.append(_OldPaths())
