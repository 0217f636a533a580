"""``captum-kmex suggest``: the layers of a model that could be explained."""

from __future__ import annotations

import argparse
import dataclasses

from captum_kmex.cli.answer import Answer, table
from captum_kmex.cli.open_model import open_subject
from captum_kmex.cli.options import (
    Commands,
    add_command,
    add_image_options,
    add_model,
    add_runtime,
)
from captum_kmex.model.layer_suggestion import candidate_layers

__all__ = ["register", "run"]


def register(commands: Commands) -> None:
    """Add the command's words."""
    parser = add_command(
        commands,
        "suggest",
        run,
        "list a model's layers with their grids, and which to take",
        "List the stages of a model with width and grid at the size of its inputs, and mark the "
        "last one on each of the last three grids. The weights do not matter.",
    )
    add_model(parser)
    add_image_options(parser)
    add_runtime(parser)


def run(options: argparse.Namespace) -> Answer:
    """List the candidates."""
    subject = open_subject(options, trained=False)
    found = candidate_layers(subject.model, subject.example)
    names = [c.name for c in found if c.is_suggested]
    rows = [("layer", "module", "width", "grid", "")]
    rows += [
        (c.name, c.kind, str(c.width), f"{c.grid[0]}x{c.grid[1]}", "suggested" * c.is_suggested)
        for c in found
    ]
    data = {
        "input": list(subject.example.shape[1:]),
        "suggested": names,
        "candidates": [dataclasses.asdict(c) for c in found],
    }
    return Answer(data, f"{table(rows)}\n--layers {' '.join(names)}")
