"""``ModelFingerprint``: what tells one model from another."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from captum_kmex.arguments import checked

__all__ = ["ModelFingerprint"]


@dataclass(frozen=True)
class ModelFingerprint:
    """What tells one model from another: hashes of its tensors' names, shapes and values.

    Attributes:
        architecture: SHA-256 over names and shapes.
        weights: SHA-256 over the values too.
    """

    architecture: str
    weights: str

    @classmethod
    @checked
    def of(cls, model: nn.Module) -> ModelFingerprint:
        """Hash a model's parameters and buffers."""
        architecture, weights = hashlib.sha256(), hashlib.sha256()
        for name, tensor in sorted(model.state_dict().items()):
            if not isinstance(tensor, Tensor):
                continue
            architecture.update(f"{name}{tuple(tensor.shape)}".encode())
            flat = tensor.detach().cpu().contiguous().flatten()
            weights.update(flat.view(torch.uint8).numpy().tobytes())
        weights.update(architecture.digest())
        return cls(architecture.hexdigest(), weights.hexdigest())
