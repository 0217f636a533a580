"""From samples to codebooks: k-means class by class, shared out between machines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_kmex.bank.codebook import Codebook
from captum_kmex.bank.representatives import Representatives
from captum_kmex.clustering.gram import TINY
from captum_kmex.clustering.kmeans import KMeansResult, kmeans_by_class
from captum_kmex.exceptions import EmptyPrototypesWarning, FewRowsWarning, warn_user
from captum_kmex.fitting.kept_patches import KeptPatches, nearest_rows
from captum_kmex.fitting.options import FitOptions
from captum_kmex.fitting.sample import ClassSample
from captum_kmex.fitting.sampled_rows import SampledRows
from captum_kmex.fitting.sampling_pass import Collection
from captum_kmex.fitting.state import from_owners, is_own

__all__ = ["Solution", "solve", "warn_empty"]

_FEW_ROWS = 10  # a prototype
_ROWS_AT_ONCE = 2**15
_OFFSETS_AT_ONCE = 2**12
_CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Solution:
    """The prototypes of a depth, and what the sample has of patches near them.

    Attributes:
        book: The prototypes, with their patches where these are final.
        near: Rows near them, of which later prototypes take theirs; ``None`` where none will.
    """

    book: Codebook
    near: KeptPatches | None = None


def solve(found: Collection, options: FitOptions, show_progress: bool) -> list[Solution]:
    """Cluster the samples into one codebook a depth; each machine solves the classes it owns.

    Raises:
        ValueError: A class has no samples, or fewer rows than prototypes.
    """
    classes = _fitted_classes(found.summary.seen, options)
    _check_rows(found.samples[-1].kept_by_all(), classes, options)
    own = [c for c in classes if is_own(c)]
    count = _rows_near(found, classes, options)
    solutions = []
    for depth, sample in enumerate(found.samples):
        bar = tqdm(own, desc=f"KMEx: clustering {depth}", disable=not show_progress)
        merged = from_owners(zip(bar, _solved(found, sample, own, options, count), strict=True))
        solutions.append(_joined([merged[c] for c in classes], found.device))
    return solutions


def _rows_near(found: Collection, classes: Sequence[int], options: FitOptions) -> int:
    """Return how many rows near each prototype are looked at; kept together, no more than all."""
    if not options.refine:
        return _spare(options.n_representatives)
    most = found.capacity * len(classes) // sum(options.count(c) for c in classes)
    return max(options.n_representatives, min(_spare(options.n_representatives), most))


def _spare(count: int) -> int:
    return 2 * count + 10  # rounding, and further Lloyd steps, may change which are nearest


def warn_empty(books: Sequence[Codebook]) -> None:
    """Warn of prototypes that stand for no row; once, of the depth that has most of them."""
    book = max(books, key=lambda book: int((book.counts == 0).sum()))
    empty = book.membership[book.counts == 0]
    if not len(empty):
        return
    where = ""
    if not book.is_agnostic:
        classes, counts = empty.unique(return_counts=True)
        c, most = int(classes[counts.argmax()]), int(counts.max())
        where = f" (class {c}: {most} of {int((book.membership == c).sum())})"
    warn_user(
        f"{len(empty)} of {len(book.counts)} prototypes stand for no feature vector{where}; where "
        "fewer vectors than prototypes are distinct, others are repeated. Use more varied images, "
        "or fewer prototypes",
        EmptyPrototypesWarning,
    )


def _joined(solutions: Sequence[Solution], device: torch.device) -> Solution:
    states = [each.book.state() for each in solutions]
    tensors = {name: torch.cat([state[name] for state in states]) for name in states[0]}
    book = Codebook.of(tensors, device)
    final = [each.book.representatives for each in solutions]
    if all(patches is not None for patches in final):
        found = [vars(patches) for patches in final]
        joined = {name: torch.cat([own[name] for own in found]) for name in found[0]}
        book = replace(book, representatives=Representatives(**joined))
    near = [each.near for each in solutions if each.near is not None]
    return Solution(book, KeptPatches.joined(near) if near else None)


def _fitted_classes(seen: Sequence[int], options: FitOptions) -> list[int]:
    groups = range(len(seen))
    wanted = options.classes if options.classes and options.labels is not None else groups
    present = [c for c in wanted if seen[c]]
    missing = [c for c in wanted if not seen[c]]
    if missing and options.labels == "predicted" and options.classes is None and present:
        warn_user(
            f"the model predicts {len(missing)} of {len(wanted)} classes for no image (the first: "
            f"{missing[:5]}); they get no prototypes",
            FewRowsWarning,
        )
    elif missing:
        raise ValueError(
            f"{len(missing)} of {len(wanted)} classes without samples (the first: "
            f"{missing[:5]}); add images of them, or pass classes= to fit only the others"
        )
    return present


def _check_rows(kept: Sequence[int], classes: list[int], options: FitOptions) -> None:
    for c in classes:
        if kept[c] < options.count(c):
            what = f" of class {c}" if options.labels is not None else ""
            raise ValueError(
                f"fit saw {kept[c]} feature vectors{what}, fewer than "
                f"n_prototypes={options.count(c)}; pass more images or ask for fewer prototypes"
            )
    few = [c for c in classes if kept[c] < _FEW_ROWS * options.count(c)]
    if few:
        least = min(few, key=lambda c: kept[c])
        warn_user(
            f"{len(few)} of {len(classes)} classes kept fewer than {_FEW_ROWS} feature vectors "
            f"a prototype (class {least}: {kept[least]} for {options.count(least)}); "
            "use more images, a larger memory_budget, or fewer prototypes",
            FewRowsWarning,
        )


def _solved(
    found: Collection, sample: ClassSample, classes: list[int], options: FitOptions, count: int
) -> Iterator[Solution]:
    """Yield the prototypes of one class after the other, on the CPU."""
    for some in _in_parts(sample, classes):
        kept, weights = zip(*(sample.rows(c) for c in some), strict=True)
        solved = kmeans_by_class(
            [part.rows for part in kept],
            [options.count(c) for c in some],
            weights=weights if sample.is_weighted else None,
            n_init=options.n_init,
            max_iter=options.max_iter,
            generator=options.seed,
            memory_budget=options.memory_budget,
        )
        for c, part, mass, result in zip(some, kept, weights, solved, strict=True):
            group = c if options.labels is not None else None
            book = _codebook(part, mass, result, group, found.summary.n_classes)
            yield _with_patches(book, part, options, count)


def _with_patches(book: Codebook, kept: SampledRows, options: FitOptions, count: int) -> Solution:
    """Return prototypes with the patches among their class's rows, or with what these are of."""
    own = Codebook.of(book.state(), _CPU)
    if not options.keeps_places:
        return Solution(own)
    near = nearest_rows(kept, book.centroids, count)
    if options.refine:
        return Solution(own, near)
    patches = near.nearest(own.centroids, options.n_representatives)
    return Solution(replace(own, representatives=patches))


def _in_parts(sample: ClassSample, classes: list[int]) -> Iterator[list[int]]:
    """Return the classes, few enough at a time for their sorted rows to lie beside the sample."""
    some, size = list[int](), 0
    for c in classes:
        size += sample.kept(c)
        if some and size > _ROWS_AT_ONCE:
            yield some
            some, size = [], sample.kept(c)
        some.append(c)
    if some:
        yield some


def _codebook(
    kept: SampledRows,
    weights: Tensor | None,
    found: KMeansResult,
    group: int | None,
    n_classes: int,
) -> Codebook:
    """Return the prototypes of a class; without one, they vote as the rows in them do."""
    k, labels = len(found.centroids), found.labels
    pairs = zip(kept.rows.split(_OFFSETS_AT_ONCE), labels.split(_OFFSETS_AT_ONCE), strict=True)
    offsets = [(rows - found.centroids[own]).square().sum(1) for rows, own in pairs]
    distances = torch.cat(offsets)
    mass = torch.ones_like(distances) if weights is None else weights.to(distances)
    total = torch.zeros_like(found.centroids[:, 0]).index_add_(0, labels, distances * mass)
    weight = torch.zeros_like(total).index_add_(0, labels, mass)
    counts = torch.bincount(labels, minlength=k)
    membership = torch.full_like(counts, group or 0)
    if group is None:
        votes = torch.bincount(labels * n_classes + kept.tags, minlength=k * n_classes)
        votes = votes.view(k, n_classes).float()
        votes[counts == 0] = votes.sum(0)  # an empty cluster votes as all rows do
        membership = votes / votes.sum(1, keepdim=True)
    return Codebook(found.centroids, membership, counts, total / weight.clamp_min(TINY))
