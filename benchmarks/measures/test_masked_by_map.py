from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorch_grad_cam.metrics.arcc import ARCC
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
from torch import Tensor

from benchmarks.measures.formulas.similarity import scaled
from benchmarks.measures.formulas.toy import Explain, Given, answers_of, linear_net, task_of
from benchmarks.measures.masked_by_map import MEASURES, harmonic_mean
from benchmarks.quality.measure import Answers

_N, _SIDE = 10, 6


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(4)


def _answers(random: torch.Generator, explain: Explain) -> Answers:
    x = torch.randn(_N, 2, _SIDE, _SIDE, generator=random)
    weight = torch.randn(3, 2, _SIDE, _SIDE, generator=random) / 4
    return answers_of(task_of(linear_net(weight), 3), Given(explain), x)


def test_adcc_equals_a_loop_in_numpy(random: torch.Generator) -> None:
    answers = _answers(random, lambda x, _: x.abs().sum(1))
    found = MEASURES[0].score(answers)
    net = answers.task.model
    for i, (x, target) in enumerate(
        zip(answers.sample.inputs, answers.sample.targets.tolist(), strict=True)
    ):
        maps = [x.abs().sum(0).numpy()]
        own = (maps[0] - maps[0].min()) / (maps[0].max() - maps[0].min())
        masked = x * torch.from_numpy(own)
        again = masked.abs().sum(0).numpy()
        r = np.corrcoef(own.ravel(), again.ravel())[0, 1]
        with torch.no_grad():
            y, o = (float(net(z[None]).softmax(1)[0, target]) for z in (x, masked))
        drop = max(0.0, y - o) / y
        terms = [(1 + r) / 2, 1 - own.mean(), 1 - drop]
        assert found["adcc"][i].item() == pytest.approx(3 / sum(1 / t for t in terms), rel=1e-4)
        assert found["drop"][i].item() == pytest.approx(drop, abs=1e-5)
        assert found["complexity"][i].item() == pytest.approx(own.mean(), rel=1e-4)


def test_arcc_is_that_of_the_package(random: torch.Generator) -> None:
    answers = _answers(random, lambda x, _: x.abs().sum(1))
    found = MEASURES[0].score(answers)

    class Again:
        def __call__(self, input_tensor: Tensor, targets: object) -> np.ndarray:
            return scaled(input_tensor.abs().sum(1)).float().numpy()

    targets = [ClassifierOutputSoftmaxTarget(int(t)) for t in answers.sample.targets]
    torch.manual_seed(0)  # of the noise in what is imputed
    theirs = ARCC(Again())(
        answers.sample.inputs,
        scaled(answers.pixel_maps).float().numpy(),
        targets,
        answers.task.model,
    )
    assert found["arcc"].tolist() == pytest.approx(theirs.tolist(), abs=1e-4)
    assert (found["arcc"] > 0.1).any()


def test_a_map_that_never_looks_is_perfectly_coherent(random: torch.Generator) -> None:
    ramp = torch.linspace(0, 1, _SIDE).expand(_SIDE, _SIDE)
    found = MEASURES[0].score(_answers(random, lambda x, _: ramp.expand(len(x), -1, -1)))
    assert torch.allclose(found["coherency"], torch.ones(_N).double())
    assert torch.allclose(found["complexity"], torch.full((_N,), 0.5).double())


def test_a_flat_map_keeps_nothing(random: torch.Generator) -> None:
    def flat(x: Tensor, _: Tensor) -> Tensor:
        return torch.ones(len(x), _SIDE, _SIDE)

    found = MEASURES[0].score(_answers(random, flat))
    assert found["complexity"].tolist() == [0.0] * _N
    assert found["coherency"].tolist() == [0.5] * _N


def test_the_image_itself_loses_nothing(random: torch.Generator) -> None:
    maps = torch.ones(1, _SIDE, _SIDE)
    maps[0, 0, 0] = 0
    assert torch.equal(scaled(maps).float(), maps)
    assert torch.equal(scaled(3 * maps - 7).float(), maps)


def test_harmonic_mean_is_zero_where_a_value_is() -> None:
    found = harmonic_mean(torch.tensor([1.0, 0.5, 0.0]), torch.tensor([1.0, 0.25, 1.0]))
    assert found.tolist() == pytest.approx([1.0, 1 / 3, 0.0])
