"""Synthetic rows for k-means: heavy-tailed mixtures, alone or as a CNN would see them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["Rows", "rectified_mixture", "student_mixture"]

Rows = npt.NDArray[np.float32]

_LATENT = 24
_COMPONENTS = 8


def student_mixture(count: int, width: int, freedom: float, generator: np.random.Generator) -> Rows:
    """Return rows (count, width) of a mixture of eight Student-t clouds."""
    means = 2 * generator.normal(size=(_COMPONENTS, width))
    clouds = means[generator.integers(_COMPONENTS, size=count)]
    noise = generator.standard_t(freedom, size=(count, width))
    return (clouds + noise).astype(np.float32)


def rectified_mixture(
    classes: int, count: int, width: int, generator: np.random.Generator
) -> list[Rows]:
    """Return rows of each class: t(3) mixtures in 24 dimensions, mixed linearly and rectified."""
    mixing = (generator.normal(size=(_LATENT, width)) / 5).astype(np.float32)
    return [
        np.maximum(student_mixture(count, _LATENT, 3, generator) @ mixing, 0)
        for _ in range(classes)
    ]
