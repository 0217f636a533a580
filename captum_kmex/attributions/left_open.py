"""What a user left open, and is told of: which layers, and which head makes the maps."""

from __future__ import annotations

from torch import Tensor, nn

from captum_kmex.arguments.inputs import check_inputs
from captum_kmex.data.batches import Batch, IndexedBatches
from captum_kmex.exceptions import ChosenLayersWarning, SurrogateWarning, warn_user
from captum_kmex.model.layer_suggestion import suggested_layers
from captum_kmex.model.reading import Reading, Site

__all__ = ["check_one_head", "chosen_layers", "first_inputs", "tell_of_ridge_head"]


def chosen_layers(
    model: nn.Module, inputs: tuple[Tensor, ...], args: tuple[object, ...]
) -> list[str]:
    """Return the layers to explain by the first images, and say which.

    Args:
        model: The unwrapped model.
        inputs: What it gets, the images (N, C, H, W) first.
        args: Its further arguments.

    Raises:
        ValueError: No layer has a grid.
    """
    names = suggested_layers(model, inputs, args)
    warn_user(
        f"no layers were given; from now on these are explained: {names}. Pass layers= to "
        "choose yourself",
        ChosenLayersWarning,
    )
    return names


def first_inputs(batches: IndexedBatches, model: nn.Module) -> tuple[Tensor, ...]:
    """Return the inputs of the first batch, which the fit will read again.

    Raises:
        ValueError: It could not read it again, or there is none.
    """
    if not batches.is_repeatable:
        raise ValueError(
            "no layers were given, and an iterator cannot be looked at twice to choose them; "
            "pass layers=, or a DataLoader or list"
        )
    for batch in batches:
        return check_inputs(batch.inputs, model)
    raise ValueError("the loader yielded no batch; pass one with at least one image")


def check_one_head(before: Site | str | None, reading: Reading, batch: Batch) -> None:
    """Raise ``ValueError`` where some images of a fit have an exact head, and others none.

    Args:
        before: What the batches before had.
        reading: The batch.
        batch: The same, as it came.
    """
    if before is None or isinstance(before, str) == isinstance(reading.site, str):
        return
    others = "these" if isinstance(before, str) else "earlier"
    reason, place = reading.refusal or before, batch.indices.tolist()[:3]
    raise ValueError(
        f"some images have no exact head: at batch {place}... {others} "
        f"images have one, and of the others {reason}. Leave the others out, or pass a "
        "model whose logits all come from one head"
    )


def tell_of_ridge_head(surrogate: object) -> None:
    """Say that maps which were those of a linearised tail will be a ridge head's.

    Args:
        surrogate: What the user chose, who then knows.
    """
    if surrogate is not None:
        return
    warn_user(
        "the ridge head of this fit makes the maps from now on, in place of the linearised "
        'tail; set surrogate="linearised" to keep that, or "ridge" to silence this',
        SurrogateWarning,
    )
