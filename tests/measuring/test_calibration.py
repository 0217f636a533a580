"""Parts that were removed in fact, and not used, fall into the intervals that were foretold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dense import Game
from sklearn.datasets import load_digits
from torch import Tensor, nn

from captum_kmex import LayerKMeansAttribution
from captum_kmex.arguments.measured import Measured
from captum_kmex.explaining.explainer import Explainer
from captum_kmex.explaining.ledger import SURE
from captum_kmex.explaining.segmenters import Competition
from captum_kmex.measuring import account, evidence
from captum_kmex.measuring.kernel import FeatureKernel
from captum_kmex.measuring.parts import Coalitions, coalitions, patches
from captum_kmex.measuring.posterior import Design
from captum_kmex.measuring.prior import allocated_maps, shared_out
from captum_kmex.measuring.removal import Remover
from captum_kmex.model.cut import Cut

GRID, IMAGES = (16, 16), 16


def read_digits() -> tuple[Tensor, Tensor]:
    digits = load_digits()
    images = torch.tensor(digits.images / 8 - 1).float().unsqueeze(1)
    return F.interpolate(images, GRID, mode="bilinear"), torch.tensor(digits.target)


def trained(x: Tensor, y: Tensor) -> nn.Sequential:
    """Return random features of digits with a ridge head: trained at once."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 24, 5, padding=2), nn.ReLU(), nn.Conv2d(24, 64, 5, 2, 2), nn.ReLU(),
        nn.Conv2d(64, 200, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(200, 10))  # fmt: skip
    with torch.no_grad():
        rows = model[:-1](x).double()
        spread, centre = rows.std(0) + 1e-6, rows.mean(0)
        rows = (rows - centre) / spread
        wanted = 10 * F.one_hot(y, 10).double()
        weight = torch.linalg.solve(
            rows.T @ rows + 3 * torch.eye(200).double(), rows.T @ (wanted - wanted.mean(0))
        )
        model[-1].weight.data = (weight / spread[:, None]).T.float()
        model[-1].bias.data = (wanted.mean(0) - (centre / spread) @ weight).float()
    return model.eval()


def game_of(
    explainer: Explainer, image: int, full: Coalitions, used: Tensor, logits: Tensor
) -> Game:
    """Return the account's last step for an image, of the measurements that are used, dense."""
    question = explainer.question(None)
    asked = question.repeated(image, len(full), logits.device)
    values, chances = asked.output(logits), asked.probability(logits)
    total, chance = values[1] - values[0], chances[1] - chances[0]
    cells = torch.arange(full.kept[0].numel())
    rows = explainer.stack.rows(torch.full_like(cells, image), cells)
    kernel = FeatureKernel.of(rows, GRID, evidence._LIKENESS, evidence._REACH, evidence._OWN)
    sums, kinds = full.kept[used].flatten(1).double(), full.kinds[used - 2]
    maps = allocated_maps(explainer, [question], 0, Competition())[0][0].flatten(1)[image].double()
    likely = shared_out(chance, maps)
    found = Design(sums, kinds, kernel).posterior(
        likely, chances[used] - chances[0], chance, account._CHANCE_NOISES
    )
    mean = (shared_out(total, maps) + found.mean * (total / chance)) / 2
    kernel = kernel(torch.eye(len(cells)).double())
    tensors = (sums, kinds, kernel, mean, values[used] - values[0])
    return Game(*(tensor.numpy() for tensor in tensors), float(total))


def misses(explainer: Explainer, image: int, logits_of) -> np.ndarray:
    """Return how many standard deviations held out measurements are off: every fourth part's."""
    labels = explainer.segments(0).labels[image]
    full = coalitions([labels, patches(GRID), patches(GRID, is_shifted=True)])
    parts = (len(full) - 2) // 2
    place = torch.arange(2, len(full))
    is_used = (place - 2) % parts % 4 != 3
    logits = logits_of(image, full.kept)
    game = game_of(explainer, image, full, place[is_used], logits)
    held = place[~is_used]
    values = explainer.question(None).repeated(image, len(full), logits.device).output(logits)
    noise = max(account._NOISES, key=game.likelihood)
    mean, error = game.predicted(
        full.kept[held].flatten(1).numpy(), full.kinds[held - 2].numpy(), noise
    )
    return ((values[held] - values[0]).numpy() - mean) / error


@pytest.mark.slow
@pytest.mark.parametrize("layer", [None, "1"], ids=["input", "features"])
def test_nine_intervals_in_ten_hold(layer):
    x, y = read_digits()
    model = trained(x[:1500], y[:1500])
    seen = x[1500 : 1500 + IMAGES]
    explainer = LayerKMeansAttribution(model, ["1", "3", "5"]).read(seen)
    assert (model(x[1500:]).argmax(1) == y[1500:]).float().mean() > 0.85

    def logits_of(image: int, kept: Tensor) -> Tensor:
        cut = Cut(model, (seen[image : image + 1],), layer=layer)
        return Remover([cut], Measured(), lambda _: None)(kept)[0]

    off = np.concatenate([misses(explainer, i, logits_of) for i in range(IMAGES)])
    assert len(off) > 500
    assert 0.85 <= (abs(off) <= SURE).mean() <= 0.95
