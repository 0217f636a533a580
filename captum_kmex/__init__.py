"""Post-hoc self-explanation of CNNs for Captum: prototypes, concept segments, exact maps."""

from importlib import import_module
from typing import TYPE_CHECKING

from captum_kmex._version import __version__
from captum_kmex.moved import keep_old_paths

if TYPE_CHECKING:
    from captum_kmex.arguments.measured import Measured
    from captum_kmex.attributions.classifier_prototypes import ClassifierPrototypes
    from captum_kmex.attributions.kmex import KMExAttribution
    from captum_kmex.attributions.layer_kmeans import LayerKMeansAttribution
    from captum_kmex.bank.prototype_bank import PrototypeBank
    from captum_kmex.exceptions import HeadNotFoundError, NotFittedError, TargetError
    from captum_kmex.explanation import Explanation
    from captum_kmex.loading.loaded import LoadedModel, load_model
    from captum_kmex.model.layer_suggestion import suggest_layers

keep_old_paths()

__all__ = [
    "ClassifierPrototypes",
    "Explanation",
    "HeadNotFoundError",
    "KMExAttribution",
    "LayerKMeansAttribution",
    "LoadedModel",
    "Measured",
    "NotFittedError",
    "PrototypeBank",
    "TargetError",
    "__version__",
    "load_model",
    "suggest_layers",
]

_PLACES = {
    "ClassifierPrototypes": "attributions.classifier_prototypes",
    "Explanation": "explanation",
    "HeadNotFoundError": "exceptions",
    "KMExAttribution": "attributions.kmex",
    "LayerKMeansAttribution": "attributions.layer_kmeans",
    "LoadedModel": "loading.loaded",
    "Measured": "arguments.measured",
    "NotFittedError": "exceptions",
    "PrototypeBank": "bank.prototype_bank",
    "TargetError": "exceptions",
    "load_model": "loading.loaded",
    "suggest_layers": "model.layer_suggestion",
}
_WINGS = (
    "alignment",
    "arguments",
    "attributions",
    "bank",
    "classes",
    "cli",
    "clustering",
    "composite",
    "concepts",
    "data",
    "demo",
    "deployment",
    "distributed",
    "exceptions",
    "explaining",
    "explanation",
    "files",
    "fitting",
    "grids",
    "loading",
    "measuring",
    "metrics",
    "model",
    "report",
    "scaling",
    "text",
    "visualization",
)


def __getattr__(name: str) -> object:
    """Load a public name, or a wing, when it is first asked for (PEP 562)."""
    if name in _PLACES:
        found: object = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
        globals()[name] = found
        return found
    if name in _WINGS:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names and the wings."""
    return sorted({*globals(), *__all__, *_WINGS})
