"""Find data that packages bring or that the user has: no data set is downloaded."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["SHARE", "find_folder", "find_own"]

SHARE = Path("/usr/share")


def find_folder(relative: str, package: str) -> Path:
    """Return a folder of a Debian package, installed or unpacked.

    Args:
        relative: The folder inside ``/usr/share``.
        package: The package that brings it.

    Raises:
        FileNotFoundError: It is nowhere; the message says how to get it.
    """
    roots = [Path(r) for r in os.environ.get("CAPTUM_KMEX_DATA", "").split(os.pathsep) if r]
    for root in [*(r / "usr" / "share" for r in roots), SHARE]:
        if (root / relative).is_dir():
            return root / relative
    raise FileNotFoundError(
        f"{relative} was not found; install the Debian package {package}, or unpack it anywhere "
        f"(apt-get download {package} && dpkg -x {package}*.deb DIR) and set CAPTUM_KMEX_DATA=DIR"
    )


def find_own(task: str, wanted: str) -> Path:
    """Return the folder that the user has set for a task, CAPTUM_KMEX_STL10 for ``"stl10"``.

    Args:
        task: Name of the task.
        wanted: A file or folder that must be in it.

    Raises:
        FileNotFoundError: None is set, or the folder is not that of the data set.
    """
    variable = f"CAPTUM_KMEX_{task.upper()}"
    folder = os.environ.get(variable)
    if not folder:
        raise FileNotFoundError(
            f"{task} needs your own copy of the data: set {variable} to the folder with {wanted}"
        )
    if not (Path(folder) / wanted).exists():
        raise FileNotFoundError(f"{variable} is {folder}, but there is no {wanted} in it")
    return Path(folder)
