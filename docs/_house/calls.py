"""The modules that a call goes through, each below the one that first calls it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from types import FrameType

import torch

import captum_kmex
from _house.drawing import GAP, box, svg
from captum_kmex import LayerKMeansAttribution

__all__ = ["calls", "draw_call"]

PACKAGE = str(Path(captum_kmex.__file__).parent)
EVERYWHERE = ("arguments", "distributed", "exceptions")  # asked from all sides: not drawn


@dataclass
class Step:
    """A module that a call goes through."""

    module: str
    names: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Note a function that was called from another module, if it has a public name."""
        is_public = not any(part.startswith(("_", "<")) for part in name.split("."))
        if is_public and name not in self.names:
            self.names.append(name)


def called(run: Callable[[], object]) -> Step:
    """Run something and return the modules it goes through, each below its first caller."""
    top = Step("")
    found = {"": top}

    def watch(frame: FrameType, event: str, _: object) -> None:
        module = _module_of(frame)
        caller = _caller(frame)
        if event != "call" or not module or caller == module or caller is None:
            return
        if module not in found:
            found[module] = Step(module)
            found.get(caller, top).steps.append(found[module])
        found[module].add(frame.f_code.co_qualname)

    sys.setprofile(watch)
    try:
        run()
    finally:
        sys.setprofile(None)
    return top


def _module_of(frame: FrameType) -> str:
    """Return the module of a frame, nothing for what is not drawn."""
    name = str(frame.f_globals.get("__name__", ""))
    module = name.removeprefix("captum_kmex.")
    is_ours = name.startswith("captum_kmex.") and frame.f_code.co_filename.startswith(PACKAGE)
    return module if is_ours and module.split(".")[0] not in EVERYWHERE else ""


def _caller(frame: FrameType) -> str | None:
    """Return the drawn module that a frame was called from; nothing from outside."""
    above = frame.f_back
    while above is not None:
        if module := _module_of(above):
            return module
        above = above.f_back
    return ""


def draw_call(run: Callable[[], object], title: str) -> str:
    """Return the picture of the modules that a call goes through."""
    parts: list[str] = []
    rows = [(depth, step) for depth, step in _walk(called(run)) if step.module]
    places: list[float] = []  # of the last box at each depth
    for i, (depth, step) in enumerate(rows):
        x, y = GAP + 26 * (depth - 1), GAP + 34 * i
        places[depth - 1 :] = [y]
        if depth > 1:
            start = f"M{x - 13} {places[depth - 2] + 26}"
            parts.append(f'<path class="line" d="{start} V{y + 13} H{x}"/>')
        parts.append(_step(x, y, step))
    return svg(parts, (0, 0, 980, GAP + 34 * len(rows) + GAP), title)


def _step(x: float, y: float, step: Step) -> str:
    """Return a module's box, and beside it the first functions that others call of it."""
    width = 12 + 7.1 * len(step.module)
    names = ", ".join(step.names[:4]) + (", …" if len(step.names) > 4 else "")
    text = f'<text class="names" x="{x + width + 8:g}" y="{y + 17}">{escape(names)}</text>'
    return box(x, y, width, step.module, 26) + text


def _walk(step: Step, depth: int = 0) -> Iterator[tuple[int, Step]]:
    yield depth, step
    for below in step.steps:
        yield from _walk(below, depth + 1)


def calls() -> dict[str, Callable[[], object]]:
    """Return what is run for the pictures: a fit and an explanation of a tiny network."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2), torch.nn.ReLU(), torch.nn.Conv2d(8, 16, 3, 2),
        torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(16, 3),
    ).eval()  # fmt: skip
    images, labels = torch.rand(30, 3, 32, 32), torch.arange(30) % 3
    attr = LayerKMeansAttribution(model, ["1", "3"], n_prototypes=2)
    loader = [(images[:15], labels[:15]), (images[15:], labels[15:])]
    return {"fit": lambda: attr.fit(loader), "explain": lambda: attr.explain(images[:2])}
