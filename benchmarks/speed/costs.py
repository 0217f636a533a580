"""The short table of costs that README quotes: ours and the usual alternatives, one run."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.page import table
from benchmarks.speed.results import Results

__all__ = ["render_costs"]

_BATCHES = (1, 8)
_ROWS = {
    "ours as it comes: `attribute` / `explain`": ("ours, defaults", "ours, defaults, explain"),
    "ours fitted, 50 prototypes: `attribute` / `explain` / `predict`": (
        "ours, K=50",
        "ours, K=50, explain",
        "ours, K=50, predict",
    ),
    "Captum's `LayerGradCam`, deepest layer / the finest of ours": (
        "captum LayerGradCam, layer4",
        "captum LayerGradCam, layer2",
    ),
    "torch-cam's LayerCAM / RefineCAM, the same layers": (
        "torchcam LayerCAM, layers 2-4",
        "torchcam RefineCAM, layers 2-4",
    ),
    "Recipro-CAM": ("Recipro-CAM, layer4",),
    "pytorch-grad-cam's GradCAM": ("pytorch-grad-cam GradCAM, layer4",),
    "zennit's LRP (EpsilonPlusFlat)": ("zennit EpsilonPlusFlat",),
    "Captum's KernelShap, 25 samples / Integrated Gradients, 50 steps": (
        "captum KernelShap, 49 squares, 25 samples",
        "captum IntegratedGradients, 50 steps",
    ),
}


def render_costs(attribute: Results) -> str:
    """Return CPU times over the bare forward pass, from the results of the whole calls."""
    heads = ["CPU time over the bare forward pass", *(f"batch {n}" for n in _BATCHES)]
    lines = [[title, *_cells(names, attribute)] for title, names in _ROWS.items()]
    return table(heads, lines, "--:")


def _cells(names: tuple[str, ...], attribute: Results) -> list[str]:
    return [" / ".join(_times(n, attribute).get(name, "–") for name in names) for n in _BATCHES]


def _times(batch: int, attribute: Results) -> Mapping[str, str]:
    rows = attribute.tables.get(f"attribute, batch {batch}", [])
    return {row.name: f"{row.ratios['forward']['median']:.3g}" for row in rows if row.ratios}
