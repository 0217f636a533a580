"""One image of the report, fit for JSON: its picture, segments and evidence."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from captum_kmex.classes import class_logits
from captum_kmex.report.evidence import BatchEvidence, DepthEvidence
from captum_kmex.report.pictures import PictureOf, encode_array, encode_picture
from captum_kmex.report.samples import Samples

__all__ = ["image_record"]

_SIDE = 384  # pixels of a picture, at most


def image_record(
    samples: Samples, found: BatchEvidence, i: int, picture: PictureOf
) -> dict[str, object]:
    """Return what the page needs of one image.

    Args:
        samples: The batch.
        found: Its evidence.
        i: Which image of the batch.
        picture: Makes a picture of an input.
    """
    shown = list(dict.fromkeys(found.targets[i].tolist()))
    places = [found.targets[i].tolist().index(target) for target in shown]
    probabilities = class_logits(found.logits[i : i + 1]).double().softmax(1)[0]
    return {
        "picture": encode_picture(picture(samples.inputs[i]), _SIDE),
        "aspect": samples.inputs.shape[3] / samples.inputs.shape[2],
        "targets": shown,
        "output": found.output[i, places].double().tolist(),
        "bias": found.bias[i, places].double().tolist(),
        "notLinear": None
        if found.not_linear is None
        else found.not_linear[i, places].double().tolist(),
        "probability": [round(float(probabilities[target]), 4) for target in shown],
        "depths": [_depth_record(depth, i, places) for depth in found.depths],
        "methods": [_method_record(maps[i, places]) for maps in found.methods.values()],
    }


def _depth_record(found: DepthEvidence, i: int, places: list[int]) -> dict[str, object]:
    """Return segments, numbered by their evidence for the first target, and their sums."""
    labels: NDArray[np.int64] = found.segments[i].numpy()
    evidence: NDArray[np.float64] = found.evidence[i, places].numpy()
    present = np.unique(labels)
    order = present[np.argsort(-np.abs(evidence[0, present]), kind="stable")]
    rank = np.zeros(int(present.max()) + 1, np.int64)
    rank[order] = np.arange(len(order))
    kind = "u1" if len(order) <= 256 else "u2"
    record: dict[str, object] = {
        "grid": list(labels.shape),
        "cells": encode_array(rank[labels], kind),
        "bytes": int(kind[1]),
        "prototypes": order.tolist(),
        "evidence": encode_array(evidence[:, order], "f8"),
    }
    if found.maps is not None:
        record["maps"] = encode_array(found.maps[i, places].numpy(), "f4")
    if found.errors is not None:
        errors = found.errors[i, places].numpy()
        record["errors"] = encode_array(errors[:, order], "f8")
        record["enough"] = [_ranks(found.enough[i][t], rank) for t in places]
        record["needed"] = [_ranks(found.needed[i][t], rank) for t in places]
    return record


def _ranks(segments: tuple[int, ...] | None, rank: NDArray[np.int64]) -> list[int] | None:
    return None if segments is None else sorted(int(rank[s]) for s in segments)


def _method_record(maps: Tensor) -> dict[str, object]:
    """Return the maps (T, h, w) of a method."""
    return {"grid": list(maps.shape[1:]), "maps": encode_array(maps.numpy(), "f4")}
