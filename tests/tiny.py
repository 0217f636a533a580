"""A tiny network in a file of the user's, and grey pictures, for the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SOURCE = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 8, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
"""
GREY = ["--resize", "16", "--crop", "16", "--mean", "0.5", "--std", "0.25", "--layers", "1", "3"]


def make_model(folder: Path) -> str:
    """Write the network's file; return its name on a command line."""
    (folder / "tiny_kmex.py").write_text(SOURCE)
    return f"{folder / 'tiny_kmex.py'}:make"


def draw(path: Path, seed: int = 0) -> Path:
    """Write a small grey picture, and the folders that it stands in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 255, (20, 24), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path
