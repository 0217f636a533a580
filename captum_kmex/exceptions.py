"""Errors and warnings of the package; each is a built-in category with a narrower name."""

from __future__ import annotations

from sklearn.exceptions import NotFittedError

__all__ = [
    "FewRowsWarning",
    "HeadNotFoundError",
    "LayerCallWarning",
    "LeftOutWeightsWarning",
    "MissingExtraError",
    "MissingGlyphWarning",
    "NotFittedError",
    "PixelDepthWarning",
    "RepresentativesWarning",
    "SkippedImageWarning",
    "TargetError",
    "TrainModeWarning",
    "UsageError",
]


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


class PixelDepthWarning(UserWarning):
    """Pictures hold more than 8 bits a pixel and are scaled."""


class MissingGlyphWarning(UserWarning):
    """The figures' font has no letters of a script in which names are written."""


class LeftOutWeightsWarning(UserWarning):
    """A file of weights holds more than the model's; the rest is left out."""


class MissingExtraError(ImportError):
    """A package of one of the extras is not installed."""


class UsageError(ValueError):
    """Options of the command line that do not go together."""
