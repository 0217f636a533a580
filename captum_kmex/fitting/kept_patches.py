"""The patches nearest to each prototype among the rows that the sample has kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from captum_kmex.bank.representatives import Representatives
from captum_kmex.bank.tensor_kinds import FLOAT, INTEGER, TensorKind
from captum_kmex.composite.by_class import best_by_class
from captum_kmex.fitting.places import check_places
from captum_kmex.fitting.sampled_rows import SampledRows

__all__ = ["KeptPatches", "check_kept_patches", "kept_patch_kinds", "nearest_rows"]

_DISTANCES = 2**22  # at once, one a row and prototype


@dataclass(frozen=True, eq=False)
class KeptPatches:
    """Rows that lie near each of K prototypes, at most one an image, on the CPU.

    Attributes:
        rows: Float tensor (K, n, D); zeros where there are fewer than n.
        places: Integer tensor (K, n, 1 + 2 d), where they come from; image -1 where there are
            fewer.
    """

    rows: Tensor
    places: Tensor

    def nearest(self, centroids: Tensor, count: int) -> Representatives:
        """Return the nearest of them.

        Args:
            centroids: Float tensor (K, D), the prototypes.
            count: Patches m of each prototype.
        """
        distances = torch.linalg.vector_norm(self.rows - centroids.cpu().unsqueeze(1), dim=2)
        distances = distances.masked_fill(self.places[..., 0] < 0, torch.inf)
        kept = distances.argsort(dim=1, stable=True)[:, :count]
        places = self.places.gather(1, kept.unsqueeze(2).expand(-1, -1, self.places.shape[2]))
        return Representatives(places[..., 0], places[..., 1:], distances.gather(1, kept))

    def state(self) -> dict[str, Tensor]:
        """Return the tensors, by name."""
        return dict(vars(self))

    @classmethod
    def joined(cls, parts: Sequence[KeptPatches]) -> KeptPatches:
        """Return the rows of the prototypes of several parts."""
        names = [field.name for field in fields(cls)]
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def nearest_rows(kept: SampledRows, centroids: Tensor, count: int) -> KeptPatches:
    """Return the rows of a class that lie nearest to its prototypes.

    Args:
        kept: The rows (M, D), with their places.
        centroids: Float tensor (K, D).
        count: Rows n of each prototype, no two of one image.
    """
    places = _places(kept)
    images, owner = places[:, 0].unique(return_inverse=True)
    squares = kept.rows.square().sum(1)
    found = []
    for part in centroids.split(max(1, _DISTANCES // len(kept))):
        near = 2 * part @ kept.rows.T - squares
        best, first = best_by_class(near, owner, len(images))
        chosen = first.gather(1, best.topk(min(count, len(images)), dim=1).indices)
        found.append(KeptPatches(kept.rows[chosen].cpu(), places[chosen].cpu()))
    return _filled(KeptPatches.joined(found), count)


def _places(kept: SampledRows) -> Tensor:
    if kept.places is None:
        raise ValueError("the sample has rows without their places; keep these in its pass")
    return kept.places


def _filled(found: KeptPatches, count: int) -> KeptPatches:
    """Append rows of no image where there are fewer images than rows are wanted."""
    missing = count - found.rows.shape[1]
    if not missing:
        return found
    rows = torch.nn.functional.pad(found.rows, (0, 0, 0, missing))
    places = torch.nn.functional.pad(found.places, (0, 0, 0, missing))
    places[:, -missing:, 0] = -1
    return KeptPatches(rows, places)


def kept_patch_kinds() -> dict[str, TensorKind]:
    """Return what the tensors of a saved ``KeptPatches`` must be."""
    return {
        "rows": TensorKind(FLOAT, ("prototypes", "/near", "width"), alike="rows"),
        "places": TensorKind(INTEGER, ("prototypes", "/near", "/places"), -1),
    }


def check_kept_patches(saved: Mapping[str, Tensor], prefix: str) -> None:
    """Raise ``ValueError`` for places that are none.

    Args:
        saved: Tensors of the right kinds, by name.
        prefix: What stands before their names in a file, for messages.
    """
    places = saved["places"].flatten(0, 1)
    check_places(places, f"{prefix}places")
    if bool((places[:, 1:] < 0).any()):
        raise ValueError(f"{prefix}places holds boxes outside of the images")
