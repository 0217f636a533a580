"""The figures of the package, with matplotlib; none shows itself or changes settings.

A ``plot_`` function makes a new figure, or draws in the one given (``figure=``, which may be a
``SubFigure``, or ``ax=`` where it needs one axes only), and returns the figure and its axes. A
``draw_`` function fills the axes it is given.
"""

from captum_kmex.figures.colors import segment_color, segment_colors
from captum_kmex.figures.comparisons import plot_comparison, plot_depths
from captum_kmex.figures.confusions import plot_confusions
from captum_kmex.figures.embeddings import plot_embeddings, prototype_handles
from captum_kmex.figures.explanations import plot_contrast, plot_explanation
from captum_kmex.figures.galleries import plot_prototypes
from captum_kmex.figures.ledgers import draw_ledger
from captum_kmex.figures.methods import plot_methods, visualize_image_attr
from captum_kmex.figures.panels import (
    density,
    draw_map,
    draw_scale,
    draw_segments,
    evidence_scale,
)
from captum_kmex.figures.pictures import draw_crop, draw_patch, draw_picture, picture

__all__ = [
    "density",
    "draw_crop",
    "draw_ledger",
    "draw_map",
    "draw_patch",
    "draw_picture",
    "draw_scale",
    "draw_segments",
    "evidence_scale",
    "picture",
    "plot_comparison",
    "plot_confusions",
    "plot_contrast",
    "plot_depths",
    "plot_embeddings",
    "plot_explanation",
    "plot_methods",
    "plot_prototypes",
    "prototype_handles",
    "segment_color",
    "segment_colors",
    "visualize_image_attr",
]
