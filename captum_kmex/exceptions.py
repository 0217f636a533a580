"""Errors and warnings of the package; each is a built-in category with a narrower name."""

from __future__ import annotations

import sys
import warnings
from functools import lru_cache
from types import FrameType

__all__ = [
    "ChosenLayersWarning",
    "EmptyPrototypesWarning",
    "FewPixelsWarning",
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
    "SurrogateWarning",
    "TargetError",
    "TrainModeWarning",
    "UncheckedFileWarning",
    "UsageError",
    "warn_user",
]

# whose frames stand between the user's line and a warning: ours, Captum's, torch's wrappers
_NOT_THE_USER = {"captum_kmex", "captum", "torch", "contextlib", "functools", "tqdm"}


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
    """No linear layer makes the model's logits of a feature map, or that map was not found."""


class TrainModeWarning(UserWarning):
    """The model was in training mode; the explanation ran it in evaluation mode."""


class ChosenLayersWarning(UserWarning):
    """The layers were left out, and chosen by the first images."""


class LayerCallWarning(UserWarning):
    """A layer ran several times in one forward pass; its first call is used."""


class FewRowsWarning(UserWarning):
    """A class kept few feature vectors for its prototypes."""


class FewPixelsWarning(UserWarning):
    """An image has fewer pixels at a depth than clusters were asked for."""


class EmptyPrototypesWarning(UserWarning):
    """Prototypes stand for no feature vector: there were fewer distinct ones."""


class RepresentativesWarning(UserWarning):
    """Nearest training patches could not be collected."""


class SkippedImageWarning(UserWarning):
    """An image file could not be read and is left out."""


class SurrogateWarning(UserWarning):
    """What stands in for a model's head has become another."""


class UncheckedFileWarning(UserWarning):
    """A file of an earlier release has no checksum, so damage may go unseen."""


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


def warn_user(message: str, category: type[Warning]) -> None:
    """Warn at the user's line: the innermost one outside the package, Captum and torch.

    Args:
        message: What was found and what to do.
        category: One of the warnings above.
    """
    frame = _user_frame(sys._getframe(1))
    warnings.warn_explicit(
        message,
        category,
        frame.f_code.co_filename,
        frame.f_lineno,
        frame.f_globals.get("__name__", "<unknown>"),
        frame.f_globals.setdefault("__warningregistry__", {}),
    )


def _user_frame(frame: FrameType) -> FrameType:
    """Return the first frame, outwards, of a module of the user's; else the outermost."""
    while frame.f_back is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] not in _NOT_THE_USER:
            return frame
        frame = frame.f_back
    return frame
