"""Names in figures: never mathematics, never wider than their place, and a hint for the font."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

from captum_kmex.exceptions import MissingGlyphWarning, warn_user
from captum_kmex.text.plain import printable

__all__ = ["PLAIN", "column_width", "fitted", "row_height"]

PLAIN: dict[str, Any] = {
    "parse_math": False,
    "usetex": False,
}  # of a text that holds names: a "$" is a "$"

_POINTS = 72.0  # an inch
_LEAST = 24.0  # points that a shortened name gets, however little room there is
_FONTS = {
    "CJK": "Noto Sans CJK SC",
    "HIRAGANA": "Noto Sans CJK JP",
    "KATAKANA": "Noto Sans CJK JP",
    "HANGUL": "Noto Sans CJK KR",
}


def fitted(
    template: str, names: Sequence[str], room: float, size: float, weight: str = "normal"
) -> str:
    """Return names in a template, each shortened in its middle so that the whole fits.

    Args:
        template: Text with a ``{}`` for each name.
        names: The names.
        room: Width of the place, in points.
        size: Size of the font, in points.
        weight: Its weight.
    """
    _hint_fonts("".join(names))
    shown = [printable(name) for name in names]
    if _width(template.format(*shown), size, weight) <= room:
        return template.format(*shown)
    rest = room - _width(template.format(*[""] * len(shown)), size, weight)
    return template.format(*_shared(shown, rest, size, weight))


def _shared(names: Sequence[str], room: float, size: float, weight: str) -> list[str]:
    """Return names that fit into a room together: the short ones whole, the others alike."""
    widths = [_width(name, size, weight) for name in names]
    share, left = room / len(names), len(names)
    for width in sorted(widths):
        share = room / left
        if width > share:
            break
        room, left = room - width, left - 1
    share = max(share, _LEAST)
    return [
        name if width <= share else _shortened(name, share, size, weight)
        for name, width in zip(names, widths, strict=True)
    ]


def _shortened(name: str, room: float, size: float, weight: str) -> str:
    """Return the beginning and the end of a name, as much as fits."""
    low, high = 1, len(name) - 1
    while low < high:
        count = (low + high + 1) // 2
        low, high = (
            (count, high) if _width(_cut(name, count), size, weight) <= room else (low, count - 1)
        )
    return _cut(name, low)


def _cut(name: str, count: int) -> str:
    end = count // 3
    return f"{name[: count - end].rstrip()}…{name[len(name) - end :].lstrip()}"


def column_width(ax: Axes) -> float:
    """Return the width of an axes' column in its figure, in points."""
    return _share(ax, is_row=False)


def row_height(ax: Axes) -> float:
    """Return the height of an axes' row in its figure, in points."""
    return _share(ax, is_row=True)


def _share(ax: Axes, *, is_row: bool) -> float:
    """Return an axes' part of its figure along one side, as far as the grid says, in points."""
    figure = ax.get_figure()
    box = ax.bbox if figure is None else figure.bbox
    length = box.height if is_row else box.width
    spec = ax.get_subplotspec()
    while spec is not None:
        grid = spec.get_gridspec()
        ratios = np.asarray(grid.get_height_ratios() if is_row else grid.get_width_ratios(), float)
        span = spec.rowspan if is_row else spec.colspan
        length *= float(ratios[span.start : span.stop].sum() / ratios.sum())
        spec = getattr(grid, "_subplot_spec", None)  # a grid in a grid has one
    return float(_POINTS * length / ax.figure.figure.dpi)


def _width(text: str, size: float, weight: str) -> float:
    """Return the width of a text in points; letters without a glyph are boxes."""
    known = "".join(c if _has_glyph(c, _families()) else "□" for c in text)
    font = FontProperties(size=size, weight=weight)
    renderer: Any = _renderer()  # its methods have no types
    return float(renderer.get_text_width_height_descent(known, font, False)[0])


@lru_cache(maxsize=1)
def _renderer() -> RendererAgg:
    return RendererAgg(1, 1, _POINTS)  # type: ignore[no-untyped-call]  # matplotlib's


def _families() -> tuple[str, ...]:
    families: list[str] = FontProperties().get_family()
    return tuple(families)


@lru_cache(maxsize=4096)
def _has_glyph(c: str, families: tuple[str, ...]) -> bool:
    files = [findfont(FontProperties(family=[name])) for name in families]
    return any(get_font(file).get_char_index(ord(c)) for file in files)


def _hint_fonts(text: str) -> None:
    """Warn of scripts that the font has no letters of, with a font that has them."""
    families = _families()
    missing = {_script(c): c for c in text if c.isprintable() and not _has_glyph(c, families)}
    for script, c in missing.items():
        found, name = _installed(c), _FONTS.get(script, f"Noto Sans {script.title()}")
        later = "" if found else ", once it is installed"
        wanted = [*rcParams["font.family"], found or name]
        warn_user(
            f"the font {', '.join(families)} has no letters of the script {script.title()}, which "
            f"are drawn as boxes; set matplotlib.rcParams['font.family'] = {wanted}{later}",
            MissingGlyphWarning,
        )


def _script(c: str) -> str:
    is_letter = unicodedata.category(c)[0] in "LM"
    return unicodedata.name(c, "UNKNOWN").split()[0] if is_letter else "SYMBOLS"


@lru_cache(maxsize=256)
def _installed(c: str) -> str | None:
    """Return an installed font that has a letter."""
    fonts = sorted(fontManager.ttflist, key=lambda font: (font.style, font.name))
    found = (f.name for f in fonts if "Last Resort" not in f.name and _holds(f.fname, c))
    return next(found, None)


def _holds(file: str, c: str) -> bool:
    try:
        return bool(get_font(file).get_char_index(ord(c)))
    except (OSError, RuntimeError):  # a damaged or foreign font file
        return False
