"""Post-hoc self-explanation of CNNs for Captum: prototypes, concept segments, exact maps."""

from captum_kmex._version import __version__
from captum_kmex.arguments.measured import Measured
from captum_kmex.attributions.classifier_prototypes import ClassifierPrototypes
from captum_kmex.attributions.kmex import KMExAttribution
from captum_kmex.attributions.layer_kmeans import LayerKMeansAttribution
from captum_kmex.bank.prototype_bank import PrototypeBank
from captum_kmex.exceptions import HeadNotFoundError, NotFittedError, TargetError
from captum_kmex.explanation import Explanation
from captum_kmex.loading.loaded import LoadedModel, load_model
from captum_kmex.model.layer_suggestion import suggest_layers
from captum_kmex.moved import keep_old_paths

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
