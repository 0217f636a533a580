"""The streamed ridge against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from captum_kmex.bank.ridge_head import Surrogate
from captum_kmex.fitting.ridge import RidgeSums

PENALTY = 1e-3  # of the features' summed variance, averaged over features


def make_data(noise: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(80, 6, generator=generator, dtype=torch.float64) + 3
    weights = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    y = x.tanh() @ weights + noise * torch.randn(80, 4, generator=generator, dtype=torch.float64)
    return x, y + torch.arange(4)


def solve(x, y, batch: int = 80) -> Surrogate:
    sums = RidgeSums()
    for features, logits in zip(x.split(batch), y.split(batch), strict=True):
        sums.add(features, logits)
    return sums.solve("layer4")


def reference(x, y) -> Ridge:
    centred = x - x.mean(0)
    alpha = PENALTY * float(centred.square().sum(0).mean())
    return Ridge(alpha=alpha, solver="cholesky").fit(x.numpy(), y.numpy())


@pytest.mark.parametrize("batch", [80, 7], ids=["one_batch", "streamed"])
def test_surrogate_equals_sklearn_ridge(batch):
    x, y = make_data()
    found, expected = solve(x, y, batch), reference(x, y)
    # solved in float64, stored in float32
    assert np.allclose(found.columns.numpy(), expected.coef_, rtol=1e-5, atol=1e-6)
    assert np.allclose(found.bias.numpy(), expected.intercept_, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("noise", [0.0, 0.5, 5.0])
def test_surrogate_r2_equals_sklearn_variance_weighted(noise):
    x, y = make_data(noise)
    fitted = reference(x, y).predict(x.numpy())
    expected = r2_score(y.numpy(), fitted, multioutput="variance_weighted")
    assert solve(x, y).r2 == pytest.approx(expected, abs=1e-9)


def test_surrogate_recovers_a_linear_head():
    x, _ = make_data()
    weights = torch.arange(12, dtype=torch.float64).view(2, 6)
    found = solve(x, x @ weights.T + 5)
    assert found.r2 > 0.99999
    assert torch.allclose(found.columns.double(), weights, rtol=0.05, atol=0.05)


def test_surrogate_of_collinear_features_is_finite():
    x, y = make_data()
    found = solve(torch.cat([x, x, torch.zeros(80, 2)], 1), y)
    assert torch.isfinite(found.columns).all()
    assert torch.isfinite(found.bias).all()


def test_surrogate_of_constant_features_predicts_the_mean():
    _, y = make_data()
    found = solve(torch.ones(80, 3, dtype=torch.float64), y)
    predicted = found.head(torch.ones(1)).logits(torch.ones(1, 3, 2, 2))[0]
    assert torch.allclose(predicted, y.mean(0).float(), atol=1e-4)
    assert found.r2 == pytest.approx(0, abs=1e-9)


def test_surrogate_remembers_its_layer():
    assert solve(*make_data()).layer == "layer4"


def test_surrogate_head_reads_maps_like_its_regression():
    x, y = make_data()
    maps = x[:, :, None, None].expand(-1, -1, 2, 3)
    logits = solve(x, y).head(maps).logits(maps)
    assert logits.dtype == torch.float64
    assert np.allclose(logits.numpy(), reference(x, y).predict(x.numpy()), atol=1e-4)
