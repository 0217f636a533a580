"""How much a run does."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PRESETS", "Preset"]


@dataclass(frozen=True)
class Preset:
    """Sizes of a run.

    Attributes:
        name: Name on the command line.
        tasks: Tasks that it runs unless told otherwise.
        n_images: Images that are explained and scored against masks.
        n_perturbed: Images whose pixels are removed step by step.
        n_steps: Steps of a deletion or insertion curve.
        n_train: Training images that methods may use; all if ``None``.
        n_test: Test images of the surrogate's table; all if ``None``.
        seeds: Seeds of the methods that depend on one.
        passes: Forward passes of a mobile network that one method may spend on explaining one
            task's images; a slow method explains fewer of them.
        bootstrap: Resamples behind a confidence interval.
    """

    name: str
    tasks: tuple[str, ...]
    n_images: int
    n_perturbed: int
    n_steps: int
    n_train: int | None
    n_test: int | None
    seeds: tuple[int, ...]
    passes: int
    bootstrap: int = 2000


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("test", ("mnist",), 6, 3, 4, 220, 100, (0, 1), 30, 50),
        Preset("quick", ("mnist", "parts"), 24, 8, 6, 250, 200, (0,), 60),
        Preset(
            "full",
            ("mnist", "fashion_mnist", "parts", "photographs"),
            64, 24, 10, 3_000, 2_000, (0, 1), 3_000,
        ),
        # maps that cost many passes beside those that cost one, enough images for intervals
        Preset("faithful", ("natural",), 48, 192, 18, None, None, (0,), 10_000),
    )
}  # fmt: skip
