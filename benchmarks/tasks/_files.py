"""Find data that packages bring: nothing is downloaded while a benchmark runs."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["find_folder"]

_SHARE = Path("/usr/share")


def find_folder(relative: str, package: str) -> Path:
    """Return a folder of a Debian package, installed or unpacked.

    Args:
        relative: The folder inside ``/usr/share``.
        package: The package that brings it.

    Raises:
        FileNotFoundError: It is nowhere; the message says how to get it.
    """
    roots = [Path(r) for r in os.environ.get("CAPTUM_KMEX_DATA", "").split(os.pathsep) if r]
    for root in [*(r / "usr" / "share" for r in roots), _SHARE]:
        if (root / relative).is_dir():
            return root / relative
    raise FileNotFoundError(
        f"{relative} was not found; install the Debian package {package}, or unpack it anywhere "
        f"(apt-get download {package} && dpkg -x {package}*.deb DIR) and set CAPTUM_KMEX_DATA=DIR"
    )
