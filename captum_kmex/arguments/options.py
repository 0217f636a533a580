"""The table of public options: what each may be, and what it is where it is left out.

A name stands for the same thing in every callable. Where one differs, its entry begins with the
callable: ``"plot_depths.scale"``. Constructors, methods, functions and the command line read
their arguments by this table, so that range, default and message are the same everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

from captum_kmex.arguments.addresses import ATTRIBUTION, BANK, CAPTUM, COLUMNS, FITTED, KMEX, LAYERS
from captum_kmex.arguments.containers import DataSet, Listed, Loader, Mapped, Names
from captum_kmex.arguments.kinds import Choice, Key, Number, OneOf, Switch, Text, Whole
from captum_kmex.arguments.masks import Mask
from captum_kmex.arguments.objects import (
    Callback,
    Color,
    Instance,
    Layer,
    Model,
    Path,
    Picture,
    Values,
)
from captum_kmex.arguments.option import Option

__all__ = ["OPTIONS", "option_of", "read_option"]

_INDEX = Whole(0, 2**31 - 1)
_PROTOTYPES = Whole(1, 10**6)
_POSITIVE = Number(0, is_open=True)
_MAP_SCALE = OneOf((Choice(("each", "shared")), _POSITIVE))
_MAPS = Values((4,), "(N, C, h, w)")
_ONE_MAP = Values((2, 3, 4), "(C, h, w)")
_RESULT = Instance(
    ("captum_kmex.explaining.result:ExplanationData",), "an Explanation, as explain() returns"
)
_ROWS = Instance(
    ("captum_kmex.explaining.ledger:LedgerRow",), "a LedgerRow of an explanation's ledger"
)
_MARKS = Listed(Values((1, 2), "(K, D) of vectors, or (K,) of their classes"), 2)
_SHOWN = Option(Picture(takes_tensors=False))
_GRID = Values((2,), "(h, w)", "whole", is_array=True)
_PLACE = Text("the name of a layer, or 'input'")
_FILL = OneOf(
    (Key("captum_kmex.measuring.fills:FILLS"), Values((3, 4, 5), "(1, D, h, w)", "floating-point"))
)
_OR_FUNCTION = Option(Model(takes_functions=True), remedy="pass the Python model")

_SWITCHES = dict.fromkeys(
    ("attribute_to_layer_input", "average_top", "connected", "per_channel", "show_progress",
     "return_convergence_delta", "smooth"), Option(Switch(), False))  # fmt: skip

_MODELS = {
    "model": Option(Model(), remedy="pass the Python model"),
    "ClassifierPrototypes.model": _OR_FUNCTION,
    "KMExAttribution.model": _OR_FUNCTION,
    "LayerKMeansAttribution.model": _OR_FUNCTION,
    "load_model.name": Option(Text(), remedy="pass a name such as 'torchvision:resnet50'"),
    "load_model.weights": Option(Path(), None),
    "load_model.preprocessing": Option(
        Instance(("captum_kmex.loading.preprocessing:Preprocessing",), "a Preprocessing"), None
    ),
    "layer": Option(Layer(), None),
    "layers": Option(
        OneOf((Layer(), Listed(Layer(), 1, is_distinct=True))),
        None,
        remedy="layers must be distinct and at least one, such as ['layer3', 'layer4']",
    ),
    "head": Option(Layer(), None),
    "output": Option(OneOf((Whole(-99, 99), Text())), None, "pass its key, attribute or place"),
    "layout": Option(Choice(("channels_first", "channels_last")), None),
    "count": Option(Whole(1, 1000), 3),
    "example": Option(Values((3, 4, 5), "(N, C, H, W)", "floating-point")),
    "widths": Option(Listed(Whole(1, 2**31 - 1), 1)),
}

_FIT = {
    "n_prototypes": Option(OneOf((_PROTOTYPES, Mapped(_INDEX, _PROTOTYPES))), 5),
    "n_clusters": Option(Whole(1, 2**16), 20),
    "weighting": Option(
        OneOf((Key("captum_kmex.composite.weighting:WEIGHTINGS"), Listed(_POSITIVE, 1))),
        None,
        "pass one positive number a layer, or a name",
    ),
    "vote": Option(Key("captum_kmex.explaining.votes:VOTES"), "distance"),
    "surrogate": Option(Choice((None, "linearised", "ridge")), None),
    "seed": Option(Whole(-(2**63), 2**63 - 1), 0),
    "loader": Option(Loader()),
    "labels": Option(Choice(("target", "predicted", None)), "target"),
    "classes": Option(Listed(_INDEX, 1, is_distinct=True), None, "pass distinct class indices"),
    "n_init": Option(Whole(1, 1000), 10),
    "max_iter": Option(Whole(1, 100_000), 100),
    "refine": Option(Whole(0, 1000), 0),
    "memory_budget": Option(Whole(1, 2**60), 2 * 2**30),
    "n_representatives": Option(Whole(0, 1000), 5),
    "patch_search": Option(Choice(("sample", "exact")), "sample"),
    "checkpoint": Option(Path(), None),
    "checkpoint_interval": Option(Number(0), 60.0),
    "path": Option(Path()),
    "strict": Option(Switch(), True),
}

_MAPS_OF_LOGITS = Option(Choice(("logit", "alignment")), "logit")
_MARGINS = Option(Choice(("margin", "distance")), "margin")
_MASK = Option(Mask(), None)
_EXPLAIN = {
    "ClassifierPrototypes.attribute.units": _MAPS_OF_LOGITS,
    "LayerKMeansAttribution.attribute.units": _MAPS_OF_LOGITS,
    "KMExAttribution.attribute.units": _MARGINS,
    "KMExAttribution.compute_convergence_delta.units": _MARGINS,
    "upsample": Option(Choice((None, "input")), None),
    "restrict": Option(Choice((None, "predicted")), None),
    "min_area": Option(Whole(1, 2**31 - 1), 1),
    "LayerKMeansAttribution.attribute.segments": _MASK,
    "ExplainedLayersAttribution.explain.segments": _MASK,
    "ExplainedLayersAttribution.explain_targets.segments": _MASK,
    "needs_head": Option(Switch(), True),
    "evidence": Option(
        OneOf(
            (
                Choice(("allocated", "measured")),
                Instance(("captum_kmex.arguments.measured:Measured",), "Measured(...)"),
            )
        ),
        "allocated",
    ),
    "Measured.at": Option(OneOf((_PLACE, Listed(_PLACE, 1, is_distinct=True))), None),
    "Measured.baseline": Option(OneOf((_FILL, Listed(_FILL, 1))), "mean"),
    "Measured.passes": Option(Choice(("full", "half", "adaptive")), "full"),
    "Measured.perturbations_per_eval": Option(Whole(1, 10**6), 32),
    "attributions": Option(Values((3, 4, 5), "(N, C, h, w)")),
}

_DATA = {
    "dataset": Option(DataSet(), None, "pass the data set itself, not its loader"),
    "train_set": Option(DataSet(), None, "pass the data set itself, not its loader"),
    "write_report.images": Option(DataSet(), remedy="pass the data set, not its loader"),
    "prototypes": Option(Listed(_INDEX), None),
    "context": Option(Number(0, 1), 0.25),
    "batch_size": Option(Whole(1, 10**6), 16),
    "bank": Option(Instance((BANK,), "a PrototypeBank, such as attribution.bank_")),
    "random_concept.count": Option(Whole(1, 10**6)),
    "concept_id": Option(Whole(-(2**31), 2**31 - 1), -1),
    "image_of.index": Option(Whole(-(2**63), 2**63 - 1)),
    "crop_box.box": Option(Listed(Whole(0, 2**31 - 1), 4)),
    "crop_box.size": Option(Listed(Whole(1, 2**31 - 1), 2)),
    "c": Option(_INDEX),
}

_OF_CAPTUM = Instance((CAPTUM,), "an attribution, ours or of Captum's")
_MEASURES = {
    "surrogate_scores.attribution": Option(Instance((FITTED,), "a fitted attribution")),
    "sensitivity_max.attribution": Option(Instance((ATTRIBUTION,), "one of the attributions")),
    "prototype_wins.attribution": Option(Instance((LAYERS,), "a LayerKMeansAttribution")),
    "write_report.attribution": Option(OneOf((_OF_CAPTUM, Mapped(Text(), _OF_CAPTUM)))),
    "pooled_embeddings.attribution": Option(
        Instance((KMEX, COLUMNS), "a KMExAttribution or ClassifierPrototypes")
    ),
}

_FIGURES = {
    "figure": Option(Instance(("matplotlib.figure:FigureBase",), "a matplotlib Figure"), None),
    "ax": Option(Instance(("matplotlib.axes:Axes",), "matplotlib Axes"), None),
    "drawn": Option(Instance(("matplotlib.image:AxesImage",), "what draw_map returned")),
    "color": Option(Color()),
    "class_names": Option(Names(), None),
    "names": Option(Names(takes_mappings=False), None),
    "Explanation.save.names": Option(Listed(Text("the name of a file")), None),
    "figures": Option(Switch(), True),
    "prototype_handles.names": Option(Names()),
    "title": Option(Text(), None),
    "label": Option(Text(), ""),
    "total": Option(Text(), "logit"),
    "base": Option(Text(), "bias"),
    "height": Option(Number(0, 10, is_open=True), 0.035),
    "legend": Option(Switch(), True),
    "is_signed": Option(Switch(), None),
    "Explanation.overlay.kind": Option(Choice(("map", "segments")), "map"),
    "n_numbers": Option(Whole(0, 10**6), 12),
    "percentile": Option(Number(0, 100), 100.0),
    "plot_methods.percentile": Option(Number(0, 100), 99.5),
    "plot_prototypes.n_patches": Option(Whole(0, 1000), 4),
    "plot_comparison.n_patches": Option(Whole(0, 1000), 5),
    "plot_confusions.n_prototypes": Option(Whole(1, 1000), 12),
    "class_index": Option(_INDEX, None),
    "projection": Option(Choice(("pca", "tsne")), "pca"),
    "plot_embeddings.seed": Option(Whole(0, 2**32 - 1), 0),
    "write_report.show_progress": Option(Switch(), True),
    "scale": Option(_POSITIVE, None),
    "draw_map.scale": Option(_POSITIVE),
    "plot_contrast.scale": Option(Choice(("each", "shared")), "each"),
    "plot_comparison.scale": Option(_MAP_SCALE, "each"),
    "plot_depths.scale": Option(_MAP_SCALE, "shared"),
    "plot_methods.scale": Option(Choice(("each", "method", "shared")), "each"),
}

_DRAWN = {
    "explanation": Option(_RESULT),
    "explanations": Option(Listed(_RESULT, 1)),
    "plot_contrast.target": Option(_RESULT),
    "plot_contrast.contrast": Option(_RESULT),
    "Explanation.save.folder": Option(Path(is_folder=True)),
    "Explanation.save.images": Option(Listed(Picture()), None),
    "image": Option(Picture(), None),
    **dict.fromkeys(("draw_picture.image", "draw_map.image", "draw_segments.image"), _SHOWN),
    "picture": Option(Callback(), None),
    "indices": Option(Listed(Whole(-(2**31), 2**31 - 1), 1)),
    "wins": Option(
        Instance(
            ("captum_kmex.explaining.pixel_wins:PrototypeWins",), "what prototype_wins counted"
        )
    ),
    "source": Option(Instance((FITTED, BANK), "a fitted attribution or its bank")),
    "patch": Option(
        Instance(("captum_kmex.explaining.ledger:Patch",), "a Patch of a ledger's row")
    ),
    "draw_segments.rows": Option(Listed(_ROWS, 1)),
    "draw_ledger.rows": Option(Listed(_ROWS)),
    "bias": Option(Number()),
    "draw_ledger.output": Option(Number()),
    "not_linear": Option(Number(), None),
    "values": Option(Values((2,), "(h, w)", is_array=True)),
    "segments": Option(_GRID),
    "order": Option(Listed(Whole(0, 2**63 - 1), 1, is_distinct=True)),
    "rank": Option(_INDEX),
    "density.maps": Option(_ONE_MAP),
    "evidence_scale.maps": Option(Listed(_ONE_MAP, takes_iterators=True)),
    "visualize_image_attr.maps": Option(_MAPS),
    "visualize_image_attr.images": Option(Values((4,), "(N, C, H, W)")),
    "plot_methods.maps": Option(Mapped(Text(), _MAPS)),
    "plot_methods.images": Option(OneOf((Values((4,), "(N, C, H, W)"), Listed(Picture(), 1)))),
    "plot_embeddings.rows": Option(Values((2,), "(M, D)")),
    "plot_embeddings.labels": Option(Values((1,), "(M,)", "whole")),
    "plot_embeddings.prototypes": Option(Mapped(Text(), _MARKS, 0), None),
}

_COMMANDS = {
    "limit": Option(Whole(1, 2**31 - 1), None),
    "num_classes": Option(Whole(1, 10**6), None),
    "workers": Option(Whole(0, 1024), 0),
    "epochs": Option(Whole(1, 10_000), 3),
}

OPTIONS: Mapping[str, Option] = MappingProxyType(
    _SWITCHES | _MODELS | _FIT | _EXPLAIN | _DATA | _MEASURES | _FIGURES | _DRAWN | _COMMANDS
)


def read_option(name: str, value: object, owner: str = "") -> object:
    """Return a value of an option in its plainest form.

    Args:
        name: The option.
        value: What the user gave.
        owner: The callable's qualified name, for entries of its own.

    Raises:
        TypeError: A value of another type.
        ValueError: One that is out of range, malformed or none of the choices.
    """
    return cast("Option", option_of(name, owner)).read(name, value)


def option_of(name: str, owner: str = "") -> Option | None:
    """Return a callable's option of this name, or the one of all callables."""
    own = f"{owner.removesuffix('.__init__')}.{name}"
    return OPTIONS.get(own, OPTIONS.get(name))
