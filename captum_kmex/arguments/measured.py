"""``Measured``: how evidence is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from torch import Tensor

from captum_kmex.arguments.options import read_option

__all__ = ["Measured"]


@dataclass(frozen=True, eq=False)
class Measured:
    """How ``evidence="measured"`` is measured; pass it in place of the word.

    Parts of the image are removed, alone and all others, and the network is run again: no
    gradients, any model. The parts are the image's segments, some twenty patches, and the same
    patches shifted by half.

    Attributes:
        at: Where parts are removed: ``"input"``, in the pixels, or a layer through which all of
            the image passes, in its features; what stands before the layer then runs once.
            Several places one after the other, whose outputs are averaged, cost more and are a
            little more faithful. ``None``: in images of up to 64 the pixels, in larger ones the
            deepest explained layer with at least 100 cells, or else the shallowest.
        baseline: What stands in place of what was removed: ``"mean"`` of the image's features
            or colours, ``"blur"``, ``"zero"``, a tensor (1, D, h, w) of your own, or several of
            them, whose outputs are averaged; of the minimal segments the first decides.
        passes: ``"full"``, three partitions; ``"half"``, two; or ``"adaptive"``, two, and the
            third where the segment with the most evidence cannot be told from another yet.
        perturbations_per_eval: Images with parts removed that the model gets at a time.
        show_progress: Show a progress bar.

    Example:
        >>> Measured(at="input", baseline=("blur", "mean"), passes="half").passes
        'half'
    """

    at: str | Sequence[str] | None = None
    baseline: str | Tensor | Sequence[str | Tensor] = "mean"
    passes: str = "full"
    perturbations_per_eval: int = 32
    show_progress: bool = False

    def __post_init__(self) -> None:
        for option in fields(self):
            value = read_option(option.name, getattr(self, option.name), type(self).__name__)
            object.__setattr__(self, option.name, value)

    @property
    def places(self) -> list[str] | None:
        """Where parts are removed, one after the other."""
        return [self.at] if isinstance(self.at, str) else None if self.at is None else [*self.at]

    @property
    def fills(self) -> list[str | Tensor]:
        """What stands in place of what was removed, one by one."""
        if isinstance(self.baseline, (str, Tensor)):
            return [self.baseline]
        return list(self.baseline)
