"""Packages that only the command line needs, and which extra has them."""

from __future__ import annotations

import importlib.util

from captum_kmex.exceptions import MissingExtraError

__all__ = ["require"]


def require(what: str, extra: str, *packages: str) -> None:
    """Check that packages are installed.

    Args:
        what: What needs them, for the message.
        extra: The extra of captum_kmex that has them.
        packages: Names to import.

    Raises:
        MissingExtraError: One is not installed; the message names the extra.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"{what}: missing {', '.join(missing)}; "
            f'install with: pip install "captum_kmex[{extra}]"'
        )
