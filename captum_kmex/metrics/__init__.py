"""What explanations are measured by: surrogates, sensitivity, wins and embeddings."""

from captum_kmex.metrics.embedding import pooled_embeddings
from captum_kmex.metrics.surrogate_scores import (
    SurrogateScores,
    sensitivity_max,
    surrogate_scores,
)
from captum_kmex.metrics.wins import PrototypeWins, prototype_wins

__all__ = [
    "PrototypeWins",
    "SurrogateScores",
    "pooled_embeddings",
    "prototype_wins",
    "sensitivity_max",
    "surrogate_scores",
]
