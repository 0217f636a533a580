"""What an explanation shows of itself at the end of a notebook's cell."""

from __future__ import annotations

import base64
import html
import io
import warnings

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from captum_kmex.explaining.result import ExplanationData
from captum_kmex.explaining.summary import headline, ledger_table, summary
from captum_kmex.text.counts import counted
from captum_kmex.visualization.explanations import panel_size, plot_explanation
from captum_kmex.visualization.pictures import picture
from captum_kmex.visualization.signals import signal_size
from captum_kmex.visualization.volumes import volume_size

__all__ = ["explanation_html", "explanation_png"]

_MOST = 3  # images that are drawn
_DPI = 96
_COLUMNS = ("number", "prototype", "area", "evidence")
_FORMATS = {"area": ".1%", "error": ".3f"}
_MEASURED = (*_COLUMNS, "error", "enough", "needed")


def explanation_png(explanation: ExplanationData, index: int) -> bytes:
    """Return the figure of an image as PNG; pyplot knows nothing of it."""
    figure = Figure(_size(explanation, index), layout="constrained")
    FigureCanvasAgg(figure)
    plot_explanation(explanation, index, figure=figure)
    file = io.BytesIO()
    with warnings.catch_warnings():  # a hint has said so, once for all letters
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(file, format="png", dpi=_DPI)
    return file.getvalue()


def _size(explanation: ExplanationData, index: int) -> tuple[float, float]:
    own = {3: signal_size, 5: volume_size}.get(explanation.inputs.ndim)
    return panel_size(picture(explanation.inputs[index])) if own is None else own()


def explanation_html(explanation: ExplanationData) -> str:
    """Return the figures of a batch's first images, each with its ledger as a table to open."""
    first, *_ = summary(explanation)
    shown = range(min(len(explanation), _MOST))
    parts = [f"<p><b>Explanation</b>: {html.escape(first)}</p>"]
    parts += [_image(explanation, i) for i in shown]
    if len(explanation) > _MOST:
        rest = len(explanation) - _MOST
        parts.append(f"<p>and {rest} more: <code>result[{_MOST}]</code> shows the next</p>")
    return "\n".join(parts)


def _image(explanation: ExplanationData, index: int) -> str:
    template, names = headline(explanation, index, explanation.class_names)
    title = html.escape(template.format(*names))
    data = base64.b64encode(explanation_png(explanation, index)).decode()
    segments = counted(len(explanation.ledger[index]), "segment")
    return (
        f'<img alt="{title}" style="max-width:100%" src="data:image/png;base64,{data}">\n'
        f"<details><summary>{index}: {title}, {segments}</summary>\n"
        f"{_table(explanation, index)}\n</details>"
    )


def _table(explanation: ExplanationData, index: int) -> str:
    rows = ledger_table(explanation, index, explanation.class_names)
    known = _MEASURED if explanation.evidence == "measured" else _COLUMNS
    columns = [c for c in known if any(row[c] is not None for row in rows)]
    head = "".join(f"<th>{column}</th>" for column in columns)
    lines = ["".join(f"<td>{_cell(c, row[c])}</td>" for c in columns) for row in rows]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"


def _cell(column: str, value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return f"{value:{_FORMATS.get(column, '+.3f')}}"
    return "" if value is None else html.escape(str(value))
