from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from scipy.stats import spearmanr

from benchmarks.measures.formulas.toy import Given, answers_of, linear_net, task_of
from benchmarks.measures.single_deletion import MEASURES
from benchmarks.quality.measure import Answers
from benchmarks.quality.method import UnavailableError

(_MEASURE,) = MEASURES
_N, _J, _SIZE = 6, 4, 10


def _answers(side: int = 4, noise: float = 0.0) -> Answers:
    """Answers of contributions to the logits of a linear network, disturbed."""
    random = torch.Generator().manual_seed(2)
    weight = torch.randn(_J, 3, _SIZE, _SIZE, generator=random)
    x = torch.randn(_N, 3, _SIZE, _SIZE, generator=random)
    disturbed = weight + noise * torch.randn(weight.shape, generator=random)
    given = Given(lambda x, target: (disturbed[target] * x).sum(1))
    return answers_of(replace(task_of(linear_net(weight), _J), missing_patches=side), given, x)


def test_contributions_of_a_linear_network_foretell_the_fall_of_its_logit() -> None:
    assert torch.allclose(_MEASURE.score(_answers())["logit"], torch.ones(_N).double())


@pytest.mark.parametrize("side", [4, 3])
def test_scores_are_those_of_a_loop(side: int) -> None:
    answers = _answers(side, noise=0.7)
    found = _MEASURE.score(answers)
    for i, (image, target) in enumerate(
        zip(answers.sample.inputs, answers.sample.targets.tolist(), strict=True)
    ):
        falls: dict[str, list[float]] = {"logit": [], "probability": []}
        sums = []
        before = answers.task.model(image[None])[0].detach().double()
        for row in range(side):
            for column in range(side):
                here = [
                    (y, x)
                    for y in range(_SIZE)
                    for x in range(_SIZE)
                    if (y * side // _SIZE, x * side // _SIZE) == (row, column)
                ]
                missing = image.clone()
                for y, x in here:
                    missing[:, y, x] = 0
                after = answers.task.model(missing[None])[0].detach().double()
                falls["logit"].append(float(before[target] - after[target]))
                change = before.softmax(0)[target] - after.softmax(0)[target]
                falls["probability"].append(float(change))
                sums.append(float(sum(answers.pixel_maps[i, y, x] for y, x in here)))
        for key, values in falls.items():
            assert float(found[key][i]) == pytest.approx(spearmanr(sums, values)[0], abs=1e-6)


def test_rounding_errors_of_a_constant_map_are_no_ranks() -> None:
    answers = _answers(side=5)  # patches of four pixels each
    noise = 3e-8 * torch.randn(_SIZE, _SIZE, generator=torch.Generator().manual_seed(0))
    given = Given(lambda x, _: (0.3 + noise).expand(len(x), -1, -1))
    flat = answers_of(answers.task, given, answers.sample.inputs)
    assert _MEASURE.score(flat)["logit"].tolist() == [0.0] * _N


def test_networks_that_never_missed_a_patch_are_not_asked() -> None:
    with pytest.raises(UnavailableError, match="never met an image without a patch"):
        _MEASURE.score(_answers(side=0))
