"""The figures of the package, with matplotlib; none shows itself or changes settings.

A ``plot_`` function makes a new figure, or draws in the one given (``figure=``, which may be a
``SubFigure``, or ``ax=`` where it needs one axes only), and returns the figure and its axes. A
``draw_`` function fills the axes it is given.
"""

from captum_kmex.visualization.colors import segment_color, segment_colors
from captum_kmex.visualization.comparisons import plot_comparison, plot_depths
from captum_kmex.visualization.confusions import plot_confusions
from captum_kmex.visualization.embeddings import plot_embeddings, prototype_handles
from captum_kmex.visualization.explanations import plot_contrast, plot_explanation
from captum_kmex.visualization.galleries import plot_prototypes
from captum_kmex.visualization.ledgers import draw_ledger
from captum_kmex.visualization.methods import plot_methods, visualize_image_attr
from captum_kmex.visualization.panels import (
    density,
    draw_map,
    draw_scale,
    draw_segments,
    evidence_scale,
)
from captum_kmex.visualization.pictures import draw_crop, draw_patch, draw_picture, picture

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
