"""Draw the house from its own code: ``python docs/make_architecture.py``, Python 3.11 or later.

``wings.svg`` has the imports between the wings, read from the source; ``fit.svg`` and
``explain.svg`` have the modules that a call goes through, each below the one that first calls it,
as they are seen when a tiny network is fitted and explained. ``--check`` draws nothing and fails
if a picture is not what the code says; a test does that.
"""

from __future__ import annotations

import sys
from pathlib import Path

from _house.calls import calls, draw_call
from _house.wings import draw_wings

FOLDER = Path(__file__).parent / "images" / "architecture"


def pictures() -> dict[str, str]:
    """Return every picture's content by its name."""
    drawn = {"wings.svg": draw_wings()}
    for name, run in calls().items():
        drawn[f"{name}.svg"] = draw_call(run, f"Modules that {name} goes through")
    return drawn


def main() -> None:
    """Write the pictures, or compare them."""
    drawn = pictures()
    if "--check" in sys.argv:
        stale = [n for n, text in drawn.items() if (FOLDER / n).read_text("utf-8") != text]
        sys.exit(f"stale: {stale}; run python docs/make_architecture.py" if stale else 0)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in drawn.items():
        (FOLDER / name).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
