"""ACE's discovery: clusters of superpixels of one class, at several scales."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sklearn.cluster import KMeans
from torch import Tensor

from benchmarks.methods.systems.superpixels import crowded, cut_out, embed, superpixels
from benchmarks.quality.task import Task

__all__ = ["Discovery", "discover", "is_kept", "scales"]

_MIN_MEMBERS, _MAX_EXAMPLES = 8, 20  # the paper's code: 20 and 40 of 50 images


@dataclass(frozen=True)
class Discovery:
    """The clusters of one class's superpixels.

    Attributes:
        centres: All clusters, float tensor (k, D).
        kept: Those that pass ACE's filter, integer tensor (m,).
        examples: The superpixels nearest to the centre of each that is kept, m float tensors
            (n, C, H, W).
        pool: All superpixels, float tensor (M, C, H, W).
    """

    centres: Tensor
    kept: Tensor
    examples: list[Tensor]
    pool: Tensor


def scales(side: int) -> tuple[int, ...]:
    """Return how many superpixels each scale asks for, by the images' side in pixels.

    ACE has 15, 50 and 80 at 224 pixels; a small picture has no room for so many.
    """
    if side < 40:
        return 4, 8, 16
    return (8, 16, 32) if side < 112 else (15, 50, 80)


def is_kept(n_members: int, n_images: int, n_discovery: int) -> bool:
    """Whether a cluster is frequent or popular enough (Ghorbani et al., 2019, and their code).

    Args:
        n_members: Superpixels in the cluster.
        n_images: Distinct images that they come from.
        n_discovery: Images in all.
    """
    m, u, n = n_members, n_images, n_discovery
    return u > 0.5 * m or (u > 0.25 * m and u > 0.25 * n) or (u > 0.1 * m and u > 0.5 * n)


def discover(task: Task, layer: str, images: Tensor, seed: int, n_clusters: int) -> Discovery:
    """Cluster the superpixels of one class.

    Args:
        task: The task.
        layer: Layer whose mean activations are clustered.
        images: Images of the class (N, C, H, W).
        seed: Seed of k-means.
        n_clusters: Clusters; fewer if there are fewer superpixels.
    """
    owners, pool = _segments(task, images)
    features = embed(task, layer, pool)
    count = min(n_clusters, len(features))
    found = KMeans(count, n_init=3, random_state=seed).fit(features.double().numpy())
    centres, labels = torch.from_numpy(found.cluster_centers_).to(features), found.labels_
    kept, examples = [], []
    for k in range(count):
        members = torch.from_numpy(labels == k).nonzero()[:, 0]
        n_images = len(owners[members].unique())
        if len(members) >= _MIN_MEMBERS and is_kept(len(members), n_images, len(images)):
            distances = (features[members] - centres[k]).square().sum(1)
            kept.append(k)
            examples.append(pool[members[distances.argsort()[:_MAX_EXAMPLES]]])
    return Discovery(centres, torch.tensor(kept, dtype=torch.long), examples, pool)


def _segments(task: Task, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return each superpixel's image (M,) and the superpixels cut out (M, C, H, W).

    One that repeats a larger scale's is left out.
    """
    by_scale = [superpixels(task, images, count) for count in scales(images.shape[-1])]
    owners, pool = [], []
    for i, image in enumerate(images):
        taken: list[Tensor] = []
        for found in by_scale:
            masks = [found[i] == s for s in range(int(found[i].max()) + 1)]
            taken += [mask for mask in masks if not crowded(mask, taken)]
        owners += [i] * len(taken)
        pool += [cut_out(task, image, mask) for mask in taken]
    return torch.tensor(owners), torch.stack(pool)
