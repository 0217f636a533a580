"""The goals for speed and memory beside what the last run measured, and why the missed are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.page import table
from benchmarks.speed.results import Results, Row

__all__ = ["GOALS", "Goal", "render_goals"]

Rows = Mapping[str, Row]
Figure = Callable[[Rows], float]


@dataclass(frozen=True)
class Goal:
    """What was aimed at, and where the figure stands.

    Attributes:
        what: The figure, in words.
        limit: The most that is wanted, or the least.
        group: The group whose run has it.
        table: Title of the table there.
        figure: Takes it from the table's rows.
        is_least: The limit is the least that is wanted.
    """

    what: str
    limit: float
    group: str
    table: str
    figure: Figure
    is_least: bool = False

    def measured(self, found: Mapping[str, Results]) -> float | None:
        """Return the figure of the last run; ``None`` where it has none."""
        rows = {row.name: row for row in found[self.group].tables.get(self.table, [])}
        try:
            return self.figure(rows)
        except KeyError:  # the row was not run, or has no result
            return None

    def is_met(self, figure: float) -> bool:
        """Return whether a figure is within the limit; nothing is rounded in its favour."""
        return figure >= self.limit if self.is_least else figure <= self.limit


def _over(row: str, base: str = "forward", more: float = 0.0) -> Figure:
    """Return the median ratio of a row to a base, and ``more``."""
    return lambda rows: more + rows[row].ratios[base]["median"]


def _value(row: str, name: str) -> Figure:
    return lambda rows: float(rows[row].values[name])


def _quotient(row: str, by: str, base: str = "scikit-learn, n_init=1") -> Figure:
    """Return one row's time over another's, by what both were compared with."""
    above, below = _over(row, base), _over(by, base)
    return lambda rows: above(rows) / below(rows)


def _more_inertia(row: str, than: str) -> Figure:
    above, below = _value(row, "inertia"), _value(than, "inertia")
    return lambda rows: above(rows) / below(rows)


_EXPLAIN, _TAIL = "explain and predict, batch 8", "tail, prototypes"
_STEP, _CLOCK = "fit, cost over the forward passes", "fit from a loader, by the clock"
_CODEBOOK = "k-means, 1 class x 100000 rows x 512, k=200"
_LARGE = "memory, 2048 x 2048, batch 1"
_SCIKIT = "scikit-learn Lloyd, n_init=10"
_OURS, _FAISS = "ours, n_init=10", "faiss, k-means++ start, all rows"
_DIGITS = "patches found among the rows kept, digits"


def _calls(classes: int, each: int, limits: tuple[float, float, float]) -> list[Goal]:
    return [
        Goal(
            f"`{call}` over the forward, {classes:,} classes x {each}, batch 8",
            limit,
            "explain",
            _EXPLAIN,
            _over(f"{call}, {classes} x {each}", more=1.0),
        )
        for call, limit in zip(("attribute", "explain", "predict"), limits, strict=True)
    ]


def _kmeans(classes: int, rows: int, k: int, times: float) -> list[Goal]:
    where = "kmeans", f"k-means, {classes} classes x {rows} rows x 512, k={k}"
    title = f"{rows:,} rows a class"
    return [
        Goal(f"k-means, {title}: times as fast as ten starts of scikit-learn", times, *where,
             _quotient(_SCIKIT, _OURS), is_least=True),
        Goal(f"k-means, {title}: inertia over theirs", 1.001, *where,
             _more_inertia(_OURS, _SCIKIT)),
    ]  # fmt: skip


def _tails() -> list[Goal]:
    few = [("1", 0.02), ("8", 0.02), ("32", 0.02)]
    many = [(batch, 0.16) for batch, _ in few]
    return [
        Goal(f"tail over the forward, {k:,} prototypes, batch {batch}", limit, "tail",
             "tail, batch", _over(f"batch {batch}, K={k}"))
        for k, limits in ((50, few), (2000, many)) for batch, limit in limits
    ] + [
        Goal(f"tail over the forward, unfitted at the default of 20 clusters, batch {batch}",
             limit, "tail", "tail, unfitted", _over(f"batch {batch}, 20 clusters"))
        for batch, limit in (("1", 0.12), ("8", 0.06))
    ] + [
        Goal("inertia of these clusters over scikit-learn's k-means of all pixels, photographs",
             1.01, "tail", "an image's own 20 clusters, photographs",
             _value("dimension", "inertia")),
    ]  # fmt: skip


GOALS = [
    Goal("whole `fit` over its forward passes, 64 images a class", 1.15, "fit_step", _STEP,
         _over("LayerKMeansAttribution, layers 2-4")),
    Goal("the same by the clock, 2 workers, progress shown, 64 images a class", 1.2, "fit_loader",
         _CLOCK, _over("64 images, 2 workers, progress shown")),
    *(Goal(f"distance of patches found in the sample over the exact search's, K = {k}", 1.05,
           "fit_step", _DIGITS, _value(f"k={k}, default budget", "distance")) for k in (5, 10)),
    *_calls(10, 5, (1.02, 1.03, 1.02)),
    *_calls(200, 10, (1.16, 1.20, 1.18)),
    *_calls(1000, 5, (1.45, 1.50, 1.45)),
    *_tails(),
    *(Goal(f"`attribute` on a prepared copy over the model's forward, K = 50, batch {batch}", 0.85,
           "attribute", f"attribute, batch {batch}", _over("ours, prepared, K=50"))
      for batch in (1, 8)),
    *_kmeans(200, 30, 10, 25), *_kmeans(20, 1300, 5, 8), *_kmeans(10, 5000, 5, 12),
    Goal("k-means, K = 200 of 100,000 rows: time over one start of scikit-learn", 1.0, "kmeans",
         _CODEBOOK, _quotient(_OURS, "scikit-learn Lloyd, n_init=1", _FAISS)),
    Goal("the same over faiss on all rows", 1.2, "kmeans", _CODEBOOK, _over(_OURS, _FAISS)),
    Goal("the same: inertia over faiss's", 1.0, "kmeans", _CODEBOOK, _value(_OURS, "inertia")),
    Goal("the same: MiB of work beside the rows", 256, "kmeans", _CODEBOOK,
         _value(_OURS, "peak_mib")),
    Goal("`from captum_kmex import ...` over torch and captum alone", 1.05, "start", "import",
         _over("from captum_kmex import LayerKMeansAttribution", "alone")),
    Goal("seconds for the report of 200 classes x 5 x 3 depths", 5.0, "write_report",
         "report of 8 images", lambda rows: rows["200 classes x 5 x 3"].seconds["subject"]),
    Goal("`attribute` of a 2048 x 2048 picture: peak memory over the forward's", 1.3,
         "large_picture", _LARGE, _value("ours, defaults", "over_forward")),
    Goal("`segment` of it", 1.3, "large_picture", _LARGE,
         _value("ours, defaults, segment", "over_forward")),
    Goal("peak memory over the forward's, 10,000 prototypes, batch 8", 1.0, "memory",
         "memory, batch 8", _value("ours, K=10000", "over_forward")),
    Goal("MiB kept beside 10,000 prototypes", 20.0, "memory", "memory, batch 8",
         _value("ours, K=10000", "kept_mib")),
    Goal("peak memory of a fit at 100 times the images", 1.05, "fit_memory", "fit, memory",
         _value("200,000 images", "over_first")),
]  # fmt: skip


def render_goals(found: Mapping[str, Results]) -> str:
    """Return the table of all goals."""
    return table(["goal", "limit", "measured", ""], [_line(goal, found) for goal in GOALS], "---:")


def _line(goal: Goal, found: Mapping[str, Results]) -> list[str]:
    limit = f"{'≥' if goal.is_least else '≤'} {goal.limit:g}"
    figure = goal.measured(found)
    if figure is None:
        return [goal.what, limit, "", found[goal.group].failure or "not run"]
    return [goal.what, limit, f"{figure:.4g}", "met" if goal.is_met(figure) else "**missed**"]
