"""All of the demo, into one folder."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from captum_kmex.demo.explained_digits import explain_digits
from captum_kmex.demo.explained_photographs import explain_photographs

__all__ = ["run"]


def run(output: Path, epochs: int = 3, *, show_progress: bool = True) -> Path:
    """Run both parts into one folder.

    Args:
        output: Folder to write.
        epochs: Training epochs of the digit ResNet.
        show_progress: Show progress bars.

    Returns:
        The summary, a Markdown file.
    """
    output.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        sections = [explain_photographs(output / "photographs", show_progress)]
        sections.append(explain_digits(output / "digits", epochs, show_progress))
    took = f"{time.perf_counter() - started:.0f} seconds, {torch.get_num_threads()} threads"
    summary = output / "summary.md"
    summary.write_text(f"# captum_kmex demo\n\n{took}.\n\n" + "\n".join(sections))
    return summary
