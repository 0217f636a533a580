"""Boxes of the colour of their wing, and the SVG around them."""

from __future__ import annotations

from html import escape

__all__ = ["GAP", "HEIGHT", "box", "svg"]

GAP, HEIGHT = 14, 30  # between two boxes, and of a box
COLORS = {  # of a wing, by what it is about
    "cli": "#e8e8e8", "demo": "#e8e8e8", "report": "#fde2c8", "visualization": "#fde2c8",
    "explanation": "#fde2c8", "metrics": "#fde2c8", "loading": "#e8e8e8",
    "attributions": "#cfe3f7", "explaining": "#cfe3f7", "deployment": "#cfe3f7",
    "measuring": "#cfe3f7",
    "alignment": "#cfe3f7", "fitting": "#d6efd2", "bank": "#d6efd2", "concepts": "#d6efd2",
    "clustering": "#d6efd2", "data": "#d6efd2", "composite": "#e5d9f2", "model": "#e5d9f2",
}  # fmt: skip
PLAIN = "#f6f6f6"


def box(x: float, y: float, width: float, name: str, height: float = HEIGHT) -> str:
    color = COLORS.get(name.split(".")[0], PLAIN)
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" fill="{color}"/>'
        f'<text class="name" x="{x + width / 2:g}" y="{y + height / 2 + 4:g}">{name}</text>'
    )


def svg(parts: list[str], bounds: tuple[float, float, float, float], about: str) -> str:
    view = " ".join(f"{value:g}" for value in bounds)
    x, y, width, height = (f"{value:g}" for value in bounds)
    style = (
        "rect{stroke:#888;stroke-width:.8}text{font:12px sans-serif;fill:#222}"
        ".name{text-anchor:middle}.names{fill:#666;font-size:11px}"
        ".arrow{fill:none;stroke:#777;marker-end:url(#tip)}.line{fill:none;stroke:#aaa}"
    )
    tip = (
        '<marker id="tip" viewBox="0 0 8 8" refX="4" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0L8 4L0 8z" fill="#777"/></marker>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{view}" '
        f'width="{width}" height="{height}">\n'
        f"<desc>{escape(about)}</desc>\n<style>{style}</style><defs>{tip}</defs>\n"
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" '
        'fill="white" style="stroke:none"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )
