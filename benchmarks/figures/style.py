"""What the figures share: colours that all can tell apart, and names down the side."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.text import Text

__all__ = ["BLUE", "GREEN", "ORANGE", "PINK", "SKY", "names_down"]

# Okabe & Ito (2008), told apart with any colour vision; ours is orange everywhere
ORANGE, BLUE, GREEN, PINK, SKY = "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9"


def names_down(axes: Axes, names: Sequence[str]) -> list[Text]:
    """Label the vertical axis with names, the first on top, and return the labels."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    return list(axes.get_yticklabels())
