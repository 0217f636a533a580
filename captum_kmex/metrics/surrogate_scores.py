"""Agreement of a surrogate with its model, and Captum's sensitivity on layer maps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from captum.metrics import sensitivity_max as captum_sensitivity_max
from torch import Tensor

from captum_kmex.arguments import checked
from captum_kmex.arguments.inputs import Inputs, check_inputs
from captum_kmex.attributions.fitted_attribution import FittedAttribution
from captum_kmex.attributions.kmex import KMExAttribution
from captum_kmex.attributions.one_bank import one_bank_a_call
from captum_kmex.attributions.prototype_attribution import PrototypeAttribution
from captum_kmex.classes import class_logits, predicted_classes
from captum_kmex.data.batches import IndexedBatches
from captum_kmex.data.labels import class_pairs

__all__ = ["SurrogateScores", "sensitivity_max", "surrogate_scores"]


@dataclass(frozen=True)
class SurrogateScores:
    """How a surrogate classifies, beside the model (Table 2).

    Attributes:
        accuracy: Share of images whose label the surrogate predicts.
        fidelity: Share of images on which it predicts what the model predicts.
        fidelity_on_errors: The same on the images that the model gets wrong; NaN if none.
        model_accuracy: Share of images whose label the model predicts.
        n_images: Number of images.
    """

    accuracy: float
    fidelity: float
    fidelity_on_errors: float
    model_accuracy: float
    n_images: int


@checked
@one_bank_a_call
def surrogate_scores(
    attribution: FittedAttribution, loader: Iterable[object], **options: object
) -> SurrogateScores:
    """Return accuracy and fidelity of a fitted attribution's predictions.

    Args:
        attribution: A fitted ``KMExAttribution`` or ``LayerKMeansAttribution``.
        loader: Yields (images, labels).
        options: Passed to ``classify``, such as ``depth=``.

    Raises:
        NotFittedError: The attribution is not fitted.
        ValueError: The loader is empty or yields no labels.

    Reference:
        Boubekki & Clemmensen (2026), Table 2.
    """
    labels, ours, theirs = [], [], []
    for batch in IndexedBatches(loader, attribution.device):
        if batch.targets is None:
            raise ValueError("the loader yields no labels; yield (images, labels)")
        found = attribution.classify(batch.inputs, **options)
        labels.append(_one_class_an_image(batch.targets, found.logits))
        ours.append(found.prediction)
        theirs.append(predicted_classes(found.logits))
    if not labels:
        raise ValueError("the loader yielded no batch; pass one with at least one image")
    label, surrogate, model = torch.cat(labels), torch.cat(ours), torch.cat(theirs)
    agrees, wrong = surrogate == model, model != label
    return SurrogateScores(
        accuracy=_share(surrogate == label),
        fidelity=_share(agrees),
        fidelity_on_errors=_share(agrees[wrong]),
        model_accuracy=_share(~wrong),
        n_images=len(label),
    )


def _one_class_an_image(targets: Tensor, logits: Tensor) -> Tensor:
    """Return the class of each image (N,) from labels or one-hot rows."""
    images, classes = class_pairs("target", targets, logits)
    if not torch.equal(images, torch.arange(len(logits), device=images.device)):
        raise ValueError(
            f"accuracy needs one integer label an image; got shape {tuple(targets.shape)}"
        )
    return classes


def _share(hits: Tensor) -> float:
    return float(hits.cpu().double().mean())


@checked
@one_bank_a_call
def sensitivity_max(
    attribution: PrototypeAttribution,
    inputs: Inputs,
    *,
    target: Tensor | int | None = None,
    **options: object,
) -> Tensor:
    """Return Captum's ``sensitivity_max`` (N,) of a layer attribution.

    Captum's function calls the explanation with a tuple and iterates over what comes back;
    a layer method returns one tensor, so it would compare the first image with every other.
    Here the map is wrapped, and a target of ``None`` is settled once, on the clean inputs, so
    that the perturbed ones are asked about the same class.

    Args:
        attribution: Any of the three attributions.
        inputs: Images (N, C, H, W), or a tuple with the images first.
        target: Class to explain; the model's argmax if ``None``.
        options: Captum's own (``perturb_radius``, ``n_perturb_samples``, ...) and the
            attribution's.

    Reference:
        Yeh et al., "On the (In)fidelity and Sensitivity of Explanations" (2019).
    """
    images = check_inputs(inputs)
    if target is None:
        extra = options.get("additional_forward_args")
        logits = attribution.logits(images, extra)
        is_class = isinstance(attribution, KMExAttribution)  # the others explain a logit
        target = (class_logits(logits) if is_class else logits).argmax(1)

    def explain(perturbed: Inputs, **kwargs: object) -> tuple[Tensor, ...]:
        maps = attribution.attribute(perturbed, **kwargs)
        return (maps,)

    scores: Tensor = captum_sensitivity_max(explain, images, target=target, **options)
    return scores
