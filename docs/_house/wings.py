"""The wings and their imports, read from the source and drawn row by row."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import captum_kmex
from _house.drawing import GAP, HEIGHT, box, svg

__all__ = ["draw_wings", "imports"]

PACKAGE = Path(captum_kmex.__file__).parent
WIDTH = 104  # of a box
STEP = 66  # from a row of boxes to the next


def imports() -> dict[str, set[str]]:
    """Return, of each wing, the wings that it imports from."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        module = _module(path)
        if module.startswith("_") or module in ("", "moved"):  # what only the package imports
            continue
        others = found.setdefault(module.split(".")[0], set())
        others |= {target.split(".")[0] for target in _imported(path)}
    return {wing: {o for o in others - {wing} if o in found} for wing, others in found.items()}


def _module(path: Path) -> str:
    """Return a module's name within the package; nothing for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("captum_kmex."):
            yield str(node.module).removeprefix("captum_kmex.")


def heights(edges: Mapping[str, set[str]]) -> dict[str, int]:
    """Return how far above the ground each wing stands: one more than all that it imports."""
    found: dict[str, int] = {}

    def height(wing: str, above: tuple[str, ...] = ()) -> int:
        if wing in above:
            raise ValueError(
                f"the wings {above[above.index(wing) :]} import each other in a circle"
            )
        if wing not in found:
            below = (height(other, (*above, wing)) for other in edges[wing])
            found[wing] = max((1 + h for h in below), default=0)
        return found[wing]

    for wing in edges:
        height(wing)
    return found


def reduced(edges: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Return the arrows that remain if one goes where no longer way leads."""

    def reached(wing: str) -> set[str]:
        return edges[wing].union(*map(reached, edges[wing]))

    return {
        wing: {o for o in others if not any(o in reached(p) for p in others)}
        for wing, others in edges.items()
    }


@dataclass
class Spot:
    """A box, or a place where an arrow passes a row."""

    row: int
    wing: str = ""
    x: float = 0.0
    above: list[Spot] = field(default_factory=list)

    @property
    def half(self) -> float:
        """Half of what it takes of a row."""
        return WIDTH / 2 if self.wing else 4


def draw_wings() -> str:
    """Return the picture of the wings and of their imports."""
    edges = imports()
    rows, chains = _laid_out(edges)
    left = min(spot.x - spot.half for row in rows for spot in row) - GAP
    right = max(spot.x + spot.half for row in rows for spot in row) + GAP
    top = len(rows) - 1

    def y(row: int) -> float:
        return GAP + (top - row) * STEP

    parts = [_arrow(chain, y) for chain in chains]
    parts += [
        box(spot.x - WIDTH / 2, y(spot.row), WIDTH, spot.wing)
        for row in rows
        for spot in row
        if spot.wing
    ]
    text = "; ".join(f"{wing}: {' '.join(sorted(edges[wing])) or '-'}" for wing in sorted(edges))
    return svg(parts, (left, 0, right - left, y(0) + HEIGHT + GAP), f"Imports of {text}")


def _laid_out(edges: Mapping[str, set[str]]) -> tuple[list[list[Spot]], list[list[Spot]]]:
    """Return the spots row by row, lowest first, and the way of each arrow over them."""
    level = heights(edges)
    boxes = {wing: Spot(level[wing], wing) for wing in sorted(edges)}
    chains = []
    for wing, others in reduced(edges).items():
        for other in sorted(others):
            between = [Spot(row) for row in range(level[wing] - 1, level[other], -1)]
            chains.append([boxes[wing], *between, boxes[other]])
    for chain in chains:
        for one, next_one in pairwise(chain):
            next_one.above.append(one)
    spots = [*boxes.values(), *(spot for chain in chains for spot in chain[1:-1])]
    rows = [[s for s in spots if s.row == row] for row in range(max(level.values()) + 1)]
    for row in reversed(rows):
        _place(row)
    return rows, chains


def _place(row: list[Spot]) -> None:
    """Give the spots of a row places below those that point at them, without overlap."""
    for spot in row:
        spot.x = sum(s.x for s in spot.above) / len(spot.above) if spot.above else 0.0
    row.sort(key=lambda spot: (spot.x, spot.wing))
    wished = [spot.x for spot in row]
    for one, other in pairwise(row):
        other.x = max(other.x, one.x + one.half + GAP + other.half)
    shift = sum(w - s.x for w, s in zip(wished, row, strict=True)) / len(row)
    for spot in row:
        spot.x = round(spot.x + shift, 1)


def _arrow(chain: list[Spot], y: Callable[[int], float]) -> str:
    """Return the curve of an arrow from a box to another, past the rows between."""
    path = f"M{chain[0].x:g} {y(chain[0].row) + HEIGHT:g}"
    for one, other in pairwise(chain):
        start, end = y(one.row) + HEIGHT, y(other.row) - (4 if other.wing else 0)
        bend = (start + end) / 2
        path += f" C{one.x:g} {bend:g} {other.x:g} {bend:g} {other.x:g} {end:g}"
        if not other.wing:
            path += f" L{other.x:g} {end + HEIGHT:g}"
    name = f"{chain[0].wing} imports from {chain[-1].wing}"
    return f'<path class="arrow" d="{path}"><title>{name}</title></path>'
