"""How a surrogate classifies, beside the network (Table 2 of Boubekki & Clemmensen, 2026)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.quality.measure import Answers, Column, Measure
from benchmarks.quality.method import UnavailableError

__all__ = ["MEASURES"]


def _score(answers: Answers) -> dict[str, Tensor]:
    """Score the test images: one value for each."""
    task = answers.task
    if task.test is None:
        raise UnavailableError("the task has no labelled test images")
    found, labels, model = [], [], []
    for images, y in DataLoader(task.test, 200):
        found.append(answers.method.predict(images))
        labels.append(y)
        model.append(task.predicted(images))
    surrogate, label, network = torch.cat(found), torch.cat(labels), torch.cat(model)
    wrong = network != label
    scores = {
        "accuracy": (surrogate == label).double(),
        "fidelity": (surrogate == network).double(),
        "model": (~wrong).double(),
    }
    if wrong.any():
        scores["errors"] = (surrogate == network)[wrong].double()
    return scores


MEASURES = (
    Measure(
        "surrogate",
        "Surrogate prediction",
        {
            "accuracy": Column("accuracy"),
            "fidelity": Column("fidelity"),
            "errors": Column("fidelity on the network's errors"),
            "model": Column("the network's accuracy", better=""),
        },
        _score,
    ),
)
