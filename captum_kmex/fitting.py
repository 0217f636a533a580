"""The fit: one pass for a bounded sample, k-means class by class, one pass for the patches."""

from __future__ import annotations

import logging
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_kmex._version import __version__
from captum_kmex.bank import Codebook
from captum_kmex.batches import Batch, IndexedBatches, Labels, class_pairs
from captum_kmex.clustering import kmeans_by_class
from captum_kmex.exceptions import FewRowsWarning, RepresentativesWarning
from captum_kmex.representatives import NearestPatches, RowSource
from captum_kmex.sampling import SLACK, ClassSample, row_keys
from captum_kmex.surrogate import RidgeSums

__all__ = ["FitOptions", "Observation", "Observer", "PassResult", "collect", "solve"]

_ROWS_PER_CLASS = 5000
_ROWS_AT_ONCE = 4096
_FEW_ROWS = 10  # a prototype
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitOptions:
    """Options of a fit; documented on ``FittedAttribution.fit``."""

    n_prototypes: int | Mapping[int, int]
    labels: Labels = "target"
    classes: tuple[int, ...] | None = None
    n_init: int = 10
    max_iter: int = 100
    seed: int = 0
    memory_budget: int = 2 * 2**30
    n_representatives: int = 5
    show_progress: bool = False

    def __post_init__(self) -> None:
        if self.n_init < 1 or self.max_iter < 1:
            raise ValueError(
                f"n_init and max_iter must be at least 1; got {self.n_init} and {self.max_iter}"
            )
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes must be distinct; got {list(self.classes)}")

    def count(self, c: int) -> int:
        """Return the number of prototypes of a class."""
        if isinstance(self.n_prototypes, int):
            return self.n_prototypes
        if c not in self.n_prototypes:
            raise ValueError(
                f"n_prototypes has no entry for class {c}; it has {sorted(self.n_prototypes)}"
            )
        return self.n_prototypes[c]


@dataclass(frozen=True)
class Observation:
    """What one forward pass gives a fit.

    Attributes:
        logits: Float tensor (N, J).
        sources: Rows at each depth, the whole stack first.
        weights: Block weights, one a layer.
        pooled: Pooled features (N, D) for the ridge surrogate, where one is needed.
    """

    logits: Tensor
    sources: Sequence[RowSource]
    weights: tuple[float, ...] = (1.0,)
    pooled: Tensor | None = None


Observer = Callable[[Batch], Observation]


@dataclass
class PassResult:
    """What the first pass over the data leaves: samples at each depth and running figures."""

    samples: list[ClassSample]
    n_classes: int
    weights: tuple[float, ...]
    n_images: int = 0
    low: float = torch.inf
    high: float = -torch.inf
    ridge: RidgeSums | None = None


def collect(batches: IndexedBatches, observe: Observer, options: FitOptions) -> PassResult:
    """Stream the data once and keep a seeded sample of rows of each class and depth.

    Raises:
        ValueError: The loader is empty, the labels do not fit, or the budget is too small.
    """
    result: PassResult | None = None
    for batch in _progress(batches, "sampling", options):
        seen = observe(batch)
        if result is None:
            result = _empty_result(seen, options)
        result.n_images += len(batch.indices)
        low, high = batch.inputs[0].aminmax()
        result.low, result.high = min(result.low, float(low)), max(result.high, float(high))
        pairs = _pairs(batch, seen, options)
        for sample, source in zip(result.samples, seen.sources, strict=True):
            _offer(sample, source, pairs, batch.indices, options)
        if seen.pooled is not None:
            result.ridge = result.ridge or RidgeSums()
            result.ridge.add(seen.pooled, seen.logits)
    if result is None:
        raise ValueError("the loader yielded no batch; pass one with at least one image")
    return result


def _progress(batches: IndexedBatches, what: str, options: FitOptions) -> Iterator[Batch]:
    total = len(batches) or None
    bar: Iterator[Batch] = iter(
        tqdm(batches, desc=f"KMEx: {what}", total=total, disable=not options.show_progress)
    )
    return bar


def _pairs(batch: Batch, seen: Observation, options: FitOptions) -> tuple[Tensor, Tensor]:
    images, classes = class_pairs(options.labels, batch.targets, seen.logits)
    if options.classes is None:
        return images, classes
    wanted = torch.isin(classes, torch.tensor(options.classes, device=classes.device))
    return images[wanted], classes[wanted]


def _empty_result(seen: Observation, options: FitOptions) -> PassResult:
    n_classes = seen.logits.shape[1]
    for c in options.classes or ():
        if not 0 <= c < n_classes:
            raise ValueError(f"classes holds {c}, out of range for {n_classes} logits")
    groups = n_classes if options.labels is not None else 1
    wanted = len(options.classes) if options.classes and options.labels is not None else groups
    row_bytes = sum(source.width for source in seen.sources) * seen.logits.element_size()
    affordable = int(options.memory_budget / (SLACK * row_bytes * wanted))
    cap = _ROWS_PER_CLASS * (n_classes if options.labels is None else 1)
    capacity = min(cap, affordable)
    if capacity < 1:
        raise ValueError(
            f"memory_budget={options.memory_budget} bytes is less than one row of "
            f"{row_bytes} bytes for each of {wanted} classes; raise it, or pass classes="
        )
    _logger.info("keeping up to %d rows of each class", capacity)
    return PassResult(
        [ClassSample(groups, capacity) for _ in seen.sources], n_classes, seen.weights
    )


def _offer(
    sample: ClassSample,
    source: RowSource,
    pairs: tuple[Tensor, Tensor],
    indices: Tensor,
    options: FitOptions,
) -> None:
    """Offer every pixel of the batch; only those that can still enter are computed."""
    images, tags = pairs
    n_pixels = source.grid[0] * source.grid[1]
    classes = tags if options.labels is not None else torch.zeros_like(tags)
    keys = row_keys(options.seed, indices, n_pixels)[images]
    sample.seen += n_pixels * torch.bincount(classes, minlength=len(sample.seen)).cpu()
    pairs_and_pixels = zip(
        *(index.split(_ROWS_AT_ONCE) for index in sample.candidates(keys, classes)), strict=True
    )
    for pair, pixel in pairs_and_pixels:
        rows = source.rows(images[pair], pixel)
        sample.add(rows, keys[pair, pixel], classes[pair], tags[pair])


def solve(result: PassResult, options: FitOptions) -> list[Codebook]:
    """Cluster the samples into one codebook a depth.

    Raises:
        ValueError: A class has no samples, or fewer rows than prototypes.
    """
    classes = _fitted_classes(result.samples[0], options)
    _warn_few_rows(result.samples[-1], classes, options)
    return [
        _codebook(sample, classes, result.n_classes, options, depth)
        for depth, sample in enumerate(result.samples)
    ]


def _fitted_classes(sample: ClassSample, options: FitOptions) -> list[int]:
    groups = range(len(sample.seen))
    wanted = options.classes if options.classes and options.labels is not None else groups
    present = [c for c in wanted if sample.seen[c]]
    missing = [c for c in wanted if not sample.seen[c]]
    if missing and options.labels == "predicted" and options.classes is None and present:
        warnings.warn(
            f"the model predicts {len(missing)} of {len(wanted)} classes for no image (the first: "
            f"{missing[:5]}); they get no prototypes",
            FewRowsWarning,
            stacklevel=6,
        )
    elif missing:
        raise ValueError(
            f"{len(missing)} of {len(wanted)} classes without samples (the first: "
            f"{missing[:5]}); add images of them, or pass classes= to fit only the others"
        )
    return present


def _warn_few_rows(sample: ClassSample, classes: list[int], options: FitOptions) -> None:
    few = [c for c in classes if sample.kept(c) < _FEW_ROWS * options.count(c)]
    if few:
        least = min(few, key=sample.kept)
        warnings.warn(
            f"{len(few)} of {len(classes)} classes kept fewer than {_FEW_ROWS} feature vectors "
            f"a prototype (class {least}: {sample.kept(least)} for {options.count(least)}); "
            "use more images, a larger memory_budget, or fewer prototypes",
            FewRowsWarning,
            stacklevel=5,
        )


def _codebook(
    sample: ClassSample, classes: list[int], n_classes: int, options: FitOptions, depth: int
) -> Codebook:
    samples, tags = zip(*(sample.rows(c) for c in classes), strict=True)
    for c, rows in zip(classes, samples, strict=True):
        if len(rows) < options.count(c):
            what = f" of class {c}" if options.labels is not None else ""
            raise ValueError(
                f"fit saw {len(rows)} feature vectors{what}, fewer than "
                f"n_prototypes={options.count(c)}; pass more images or ask for fewer prototypes"
            )
    solved = kmeans_by_class(
        samples,
        [options.count(c) for c in classes],
        n_init=options.n_init,
        max_iter=options.max_iter,
        generator=options.seed,
    )
    bar = tqdm(
        solved,
        desc=f"KMEx: clustering {depth}",
        total=len(classes),
        disable=not options.show_progress,
    )
    centroids, counts, spread, membership = [], [], [], []
    for c, rows, tag, found in zip(classes, samples, tags, bar, strict=True):
        k = options.count(c)
        distances = (rows - found.centroids[found.labels]).square().sum(1)
        size = torch.bincount(found.labels, minlength=k)
        total = torch.zeros_like(found.centroids[:, 0]).index_add_(0, found.labels, distances)
        centroids.append(found.centroids)
        counts.append(size)
        spread.append(total / size.clamp_min(1))
        if options.labels is None:
            votes = torch.bincount(found.labels * n_classes + tag, minlength=k * n_classes)
            votes = votes.view(k, n_classes).float()
            votes[size == 0] = votes.sum(0)  # an empty cluster votes as all rows do
            membership.append(votes / votes.sum(1, keepdim=True))
        else:
            membership.append(torch.full_like(size, c))
    joined = [torch.cat(parts) for parts in (centroids, membership, counts, spread)]
    return Codebook(joined[0], joined[1], joined[2], joined[3])


def find_representatives(
    batches: IndexedBatches,
    observe: Observer,
    codebooks: Sequence[Codebook],
    options: FitOptions,
    expected: int,
) -> list[Codebook]:
    """Stream the data, ``expected`` images, again for the patches nearest to each prototype."""
    if options.n_representatives < 1:
        return list(codebooks)
    if not batches.is_repeatable:
        warnings.warn(
            "the loader can be read only once, so no nearest training patches were collected; "
            "pass a DataLoader, or n_representatives=0 to silence this",
            RepresentativesWarning,
            stacklevel=4,
        )
        return list(codebooks)
    searches = [
        NearestPatches(book.centroids, book.membership, options.n_representatives)
        for book in codebooks
    ]
    n_images = 0
    for batch in _progress(batches, "nearest patches", options):
        n_images += len(batch.indices)
        seen = observe(batch)
        height, width = batch.inputs[0].shape[-2:]
        for search, source in zip(searches, seen.sources, strict=True):
            search.add(source, _pairs(batch, seen, options), batch.indices, (height, width))
    if n_images != expected:
        warnings.warn(
            f"the second pass over the loader gave {n_images} images, the first {expected}; the "
            "nearest training patches are those of the second. Pass a DataLoader that repeats",
            RepresentativesWarning,
            stacklevel=4,
        )
    return [
        Codebook(book.centroids, book.membership, book.counts, book.spread, search.result())
        for book, search in zip(codebooks, searches, strict=True)
    ]


def describe(result: PassResult, options: FitOptions) -> dict[str, object]:
    """Return the provenance that a bank's header records."""
    sample = result.samples[0]
    settings = asdict(options)
    if not isinstance(options.n_prototypes, int):
        settings["n_prototypes"] = {str(c): k for c, k in options.n_prototypes.items()}
    packages = ("torch", "captum", "numpy", "scikit-learn", "safetensors")
    return {
        "n_images": result.n_images,
        "rows_seen": sample.seen.tolist(),
        "rows_kept": [sample.kept(c) for c in range(len(sample.seen))],
        "options": settings,
        "versions": {"python": platform.python_version(), "captum_kmex": __version__}
        | {name: _version(name) for name in packages},
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"
