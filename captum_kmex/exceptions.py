"""Errors and warnings of the package; each is a built-in category with a narrower name."""

from __future__ import annotations

import sys
from functools import lru_cache

__all__ = [
    "FewRowsWarning",
    "HeadNotFoundError",
    "LayerCallWarning",
    "MissingExtraError",
    "NotFittedError",
    "RepresentativesWarning",
    "SkippedImageWarning",
    "TargetError",
    "TrainModeWarning",
    "UsageError",
]


class NotFittedError(ValueError, AttributeError):
    """``fit`` must be called first.

    Where scikit-learn is loaded, whoever catches its error of this name catches this one too.
    Importing it for that alone would be a third of this package's import.
    """

    def __new__(cls, *args: object, **details: object) -> NotFittedError:
        """Make one that is scikit-learn's too, where that is loaded."""
        theirs = getattr(sys.modules.get("sklearn.exceptions"), "NotFittedError", None)
        if cls is NotFittedError and theirs is not None:
            cls = _both(theirs)
        return super().__new__(cls, *args, **details)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle as what is made anew where it is read."""
        return NotFittedError, self.args


@lru_cache(maxsize=1)
def _both(theirs: type[Exception]) -> type[NotFittedError]:
    """Return ``NotFittedError`` as a subclass of another one."""
    names = ("__module__", "__qualname__", "__doc__")
    space = {name: getattr(NotFittedError, name) for name in names}
    return type(NotFittedError.__name__, (NotFittedError, theirs), space)


class TargetError(AssertionError, ValueError):
    """A target that does not name one logit an image.

    It is an ``AssertionError`` because Captum's own target checks assert, and a
    ``ValueError`` because that is what it is.
    """


class HeadNotFoundError(ValueError):
    """The model's logits are not affine in a feature map, or that map was not found."""


class TrainModeWarning(UserWarning):
    """The model was in training mode; the explanation ran it in evaluation mode."""


class LayerCallWarning(UserWarning):
    """A layer ran several times in one forward pass; its last call is used."""


class FewRowsWarning(UserWarning):
    """A class kept few feature vectors for its prototypes."""


class RepresentativesWarning(UserWarning):
    """Nearest training patches could not be collected."""


class SkippedImageWarning(UserWarning):
    """An image file could not be read and is left out."""


class MissingExtraError(ImportError):
    """A package of one of the extras is not installed."""


class UsageError(ValueError):
    """Options of the command line that do not go together."""
