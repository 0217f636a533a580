"""Answer one question; what is found goes to ``benchmarks/results``."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.commands import run_command

__all__ = ["main"]

_STUDIES = {
    "faithfulness_cost": (
        "benchmarks.studies.faithfulness_cost",
        "how faithful maps of photographs are, and how many forward passes they cost",
    ),
    "export_cost": (
        "benchmarks.studies.export_cost",
        "what an explanation adds to a model in ONNX Runtime",
    ),
    "paper_tables": (
        "benchmarks.studies.paper_tables",
        "Tables 1 and 2 of the paper on your own copy of STL10 or CUB-200",
    ),
}


def main(words: Sequence[str]) -> None:
    """Run the study that is named."""
    run_command("python -m benchmarks study", __doc__ or "", _STUDIES, words)
