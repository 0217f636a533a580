"""Votes: how positions' distances to prototypes become class scores. One is shipped."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from benchmarks.evaluation.cells import Cell
from benchmarks.surrogate.features import DEPTHS, N_ROWS, Features, distances, hits
from benchmarks.surrogate.seeds import solve

__all__ = ["VOTES", "WEIGHTINGS", "study_votes"]

WEIGHTINGS = ("balanced", "nave", "dimension")

Vote = Callable[[Tensor, Tensor, Tensor], Tensor]

# Votes take squared distances (N, C, K, P), norms of the deepest vectors (N, P), and the shares of
# classes in each prototype's training rows (C, K, C); they return scores (N, C).


def _share(d: Tensor, norms: Tensor, shares: Tensor) -> Tensor:  # noqa: ARG001
    winners: Tensor = one_hot(d.amin(2).argmin(1), d.shape[1])
    return winners.double().mean(1)


def _purity(d: Tensor, norms: Tensor, shares: Tensor) -> Tensor:  # noqa: ARG001
    return shares.flatten(0, 1)[d.flatten(1, 2).argmin(1)].mean(1)


def _likelihood(d: Tensor, norms: Tensor, shares: Tensor) -> Tensor:  # noqa: ARG001
    return (shares + 1e-4).log().flatten(0, 1)[d.flatten(1, 2).argmin(1)].mean(1)


def _soft(d: Tensor, norms: Tensor, shares: Tensor) -> Tensor:  # noqa: ARG001
    return (-d.amin(2) / 0.1).softmax(1).mean(2)


def _power(power: float) -> Vote:
    def vote(d: Tensor, norms: Tensor, shares: Tensor) -> Tensor:  # noqa: ARG001
        return -d.amin(2).pow(power / 2).mean(2)

    return vote


def _loudest(d: Tensor, norms: Tensor, shares: Tensor) -> Tensor:  # noqa: ARG001
    return -(d.amin(2) * norms[:, None]).sum(2)


def _log(d: Tensor, norms: Tensor, shares: Tensor) -> Tensor:  # noqa: ARG001
    return -(d.amin(2) + 1e-4).log().mean(2)


def _loud_log(d: Tensor, norms: Tensor, shares: Tensor) -> Tensor:  # noqa: ARG001
    return -((d.amin(2) + 1e-4).log() * norms[:, None]).sum(2)


VOTES: dict[str, Vote] = {
    "share (eq. 10)": _share,
    "share by purity": _purity,
    "likelihood": _likelihood,
    "soft share": _soft,
    "squared distance": _power(2),
    "squared, by norm": _loudest,
    "distance": _power(1),
    "log distance": _log,
    "log, by norm": _loud_log,
}


def _shares(rows: Sequence[Tensor], prototypes: Tensor) -> Tensor:
    """Return the share of each class in each prototype's rows (C, K, C), classes even."""
    flat = prototypes.flatten(0, 1)
    counts = [
        torch.bincount(torch.cdist(own, flat).argmin(1), minlength=len(flat)) / len(own)
        for own in rows
    ]
    table = torch.stack(counts, 1)
    table /= table.sum(1, keepdim=True).clamp_min(1e-9)
    return table.view(*prototypes.shape[:2], -1)


def study_votes(task: str, train: Features, held: Features) -> list[Cell]:
    """Score every vote, weighting and depth with five prototypes, and the first with ten."""
    cells = []
    settings = [(w, name, 5) for w in WEIGHTINGS for name in DEPTHS]
    settings += [("balanced", name, 10) for name in DEPTHS]
    for weighting, name, k in settings:
        depth = DEPTHS[name]
        rows = train.sample(depth, weighting, N_ROWS, 0)
        prototypes = solve(rows, k, 0)
        shares = _shares(rows, prototypes)
        scores: dict[str, list[Tensor]] = {vote: [] for vote in VOTES}
        for d, norms in distances(held, depth, weighting, prototypes):
            for vote, function in VOTES.items():
                scores[vote].append(function(d, norms, shares).argmax(1))
        for vote, parts in scores.items():
            found = torch.cat(parts)
            cell = Cell(task, f"{name}, {weighting}, K = {k}|{vote}", 0)
            cell.scores["vote"] = hits(found, held)
            cells.append(cell)
    cnn = Cell(task, "network", 0)
    cnn.scores["vote"] = hits(held.predicted, held)
    return [cnn, *cells]
