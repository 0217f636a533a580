import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from sklearn.decomposition import NMF
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.methods.craft import Craft, crops_of, total_indices
from benchmarks.methods.ice import Ice
from benchmarks.methods.part_prototypes import PartPrototypes, residual_shares, scaled_parts
from benchmarks.methods.systems.nmf import codes_of, factorise
from benchmarks.methods.systems.tap import Tap
from benchmarks.methods.systems.tiny_task import tiny_task
from benchmarks.methods.systems.training import draw, draw_by_class
from benchmarks.quality.method import Method, UnavailableError


def _rows(count: int = 60, depth: int = 7) -> Tensor:
    return torch.rand(count, depth, generator=torch.Generator().manual_seed(0))


def _fitted(method: Method) -> Method:
    method.fit(tiny_task(), 0)
    return method


@pytest.mark.filterwarnings("ignore:Maximum number of iterations")
def test_factorise_agrees_with_scikit_learn_and_has_unit_rows() -> None:
    rows = _rows()
    model = NMF(3, init="nndsvda", random_state=0, max_iter=200)
    model.fit(rows.numpy())
    found = factorise(rows, 3, 0)
    assert bool((found >= 0).all())
    assert torch.allclose(found.norm(dim=1), torch.ones(3))
    wanted = normalize(torch.from_numpy(model.components_), dim=1)
    torch.testing.assert_close(found, wanted.to(found), atol=1e-5, rtol=0)


def test_factorise_recovers_more_of_the_rows_with_more_concepts() -> None:
    rows = _rows()
    errors = []
    for rank in (1, 2, 4, 6):
        basis = factorise(rows, rank, 0)
        errors.append(float((rows - codes_of(rows, basis) @ basis).norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.5 * errors[0]


def test_codes_are_those_of_nnls() -> None:
    rows, basis = _rows(20), normalize(_rows(4), dim=1)
    wanted = np.stack([nnls(basis.double().numpy().T, row.double().numpy())[0] for row in rows])
    np.testing.assert_allclose(codes_of(rows, basis).numpy(), wanted, atol=2e-4)


def test_factorise_refuses_negative_activations() -> None:
    with pytest.raises(UnavailableError, match="not negative"):
        factorise(_rows() - 0.5, 2, 0)


def test_tap_gives_back_the_logits() -> None:
    task = tiny_task()
    images = task.sample("test", 6).inputs
    tap = Tap(task.model, images)
    logits = tap.features(images).mean((2, 3)) @ tap.columns.T + tap.bias
    torch.testing.assert_close(logits, task.model(images).detach(), atol=1e-5, rtol=1e-5)
    assert tap.rows(images).shape == (6 * 64, 6)


def test_draw_takes_no_image_twice_and_as_many_of_each_class() -> None:
    task = tiny_task()
    images, labels = draw(task, 20, 1)
    assert len(images) == len(labels) == 20 == len(images.flatten(1).unique(dim=0))
    assert [len(own) for own in draw_by_class(task, 7, 1)] == [7, 7, 7]
    assert [len(own) for own in draw_by_class(task, 99, 1)] == [16, 16, 16]


@pytest.mark.parametrize("make", [Ice, Craft, PartPrototypes])
def test_methods_say_that_they_need_training_images(make: type[Ice]) -> None:
    with pytest.raises(UnavailableError, match="needs training images"):
        make(2).fit(tiny_task(n_train=None), 0)


@pytest.mark.parametrize("make", [Ice, Craft, PartPrototypes])
def test_methods_say_that_they_need_rectified_maps(make: type[Ice]) -> None:
    with pytest.raises(UnavailableError, match="not negative"):
        make(2).fit(tiny_task(relu=False), 0)


# ICE


def test_ice_importance_is_the_finite_difference_of_the_logit() -> None:
    method, task = Ice(4), tiny_task()
    method.fit(task, 0)
    features = method.tap.features(task.sample("test", 3).inputs).double()
    head = task.model[-1].double()  # type: ignore[index]
    step = 1e-4
    for k, v in enumerate(method.components.double()):
        shift = step * v[:, None, None]
        up, down = (head((features + s).mean((2, 3))) for s in (shift, -shift))
        wanted = ((up - down) / (2 * step)).mean(0)
        torch.testing.assert_close(method.importance[:, k].double(), wanted, atol=1e-5, rtol=0)


def test_ice_maps_and_concepts_add_up_to_the_logit_of_the_inverted_features() -> None:
    method, sample = Ice(4), tiny_task().sample("test", 6)
    _fitted(method)
    logits = method.logits(sample.inputs)
    wanted = logits[torch.arange(6), sample.targets] - method.tap.bias[sample.targets]
    maps = method.maps(sample.inputs, sample.targets)
    torch.testing.assert_close(maps.mean((1, 2)), wanted, atol=1e-5, rtol=1e-4)
    importance = method.concepts(sample.inputs, sample.targets).importance
    torch.testing.assert_close(importance.sum(1), wanted, atol=1e-5, rtol=1e-4)


def test_ice_of_full_rank_predicts_as_the_network() -> None:
    task = tiny_task()
    method = Ice(6)
    method.fit(task, 0)
    method.components = torch.eye(6)  # inverts exactly
    method.importance = method.tap.columns @ method.components.T
    images = task.sample("test", 6).inputs
    torch.testing.assert_close(
        method.logits(images), task.model(images).detach(), atol=1e-4, rtol=1e-4
    )
    assert torch.equal(method.predict(images), task.predicted(images))


# Part prototypes


def test_part_prototypes_sum_to_the_columns_and_their_evidence_to_the_logits() -> None:
    task = tiny_task()
    method = PartPrototypes(3)
    method.fit(task, 0)
    torch.testing.assert_close(method.parts.sum(1), method.columns, atol=1e-6, rtol=0)
    sample = task.sample("test", 6)
    logits = task.model(sample.inputs).detach()
    own = logits[torch.arange(6), sample.targets]
    found = method.concepts(sample.inputs, sample.targets).importance.sum(1)
    torch.testing.assert_close(found + method.bias[sample.targets], own, atol=1e-5, rtol=1e-5)
    images = torch.cat([x[None] for x, _ in (task.test[i] for i in range(12))])  # type: ignore[index]
    assert torch.equal(method.predict(images), task.predicted(images))


def test_part_prototypes_number_segments_by_class() -> None:
    method, sample = PartPrototypes(3), tiny_task().sample("test", 6)
    _fitted(method)
    targets = torch.tensor([0, 1, 2, 0, 1, 2])
    segments = method.segments(sample.inputs, targets)
    assert torch.equal(segments // 3, targets[:, None, None].expand_as(segments))
    scores = method.own_scores(sample.inputs, targets)
    assert torch.equal(segments % 3, scores.argmax(1))


def test_parts_are_scaled_by_least_squares() -> None:
    parts, column = _rows(3), _rows(9)[8]
    wanted, *_ = np.linalg.lstsq(parts.double().numpy().T, column.double().numpy(), rcond=None)
    found = scaled_parts(parts, column)
    np.testing.assert_allclose(found.numpy(), wanted[:, None] * parts.numpy(), atol=1e-5)


def test_residual_shares_beat_a_grid_over_the_simplex() -> None:
    parts, rows = _rows(2), _rows(50)
    residual = torch.randn(7, generator=torch.Generator().manual_seed(4))

    def closeness(share: float) -> float:
        shares = torch.tensor([share, 1 - share])
        after = rows @ (parts + shares[:, None] * residual).T
        pairs = zip((rows @ parts.T).T, after.T, strict=True)
        return float(np.mean([np.corrcoef(a.numpy(), b.numpy())[0, 1] for a, b in pairs]))

    found = residual_shares(parts, residual, rows)
    assert float(found.sum()) == pytest.approx(1, abs=1e-6)
    assert bool((found >= 0).all())
    assert closeness(float(found[0])) > max(closeness(i / 200) for i in range(201)) - 1e-4


# CRAFT


def test_total_indices_of_a_linear_function_are_shares_of_squared_weights() -> None:
    weights = torch.tensor([3.0, 1.0, 0.5, 0.0], dtype=torch.float64)
    found = total_indices(lambda p: (p @ weights)[:, None], 4, seed=0, design=4096)[:, 0]
    wanted = weights.square() / weights.square().sum()
    torch.testing.assert_close(found, wanted, atol=0.01, rtol=0.02)
    assert found[3] == 0


def test_total_indices_of_ishigami_are_the_known_ones() -> None:
    a, b = 7.0, 0.1

    def ishigami(points: Tensor) -> Tensor:
        x = (2 * points - 1) * torch.pi
        first, second, third = x.unbind(1)
        value = first.sin() + a * second.sin() ** 2 + b * third**4 * first.sin()
        return value[:, None]

    pi4 = np.pi**4
    interaction = b**2 * pi4**2 * (1 / 18 - 1 / 50)
    main, second = 0.5 * (1 + b * pi4 / 5) ** 2, a**2 / 8
    total = main + second + interaction
    wanted = torch.tensor([main + interaction, second, interaction], dtype=torch.float64) / total
    found = total_indices(ishigami, 3, seed=0, design=8192)[:, 0]
    torch.testing.assert_close(found, wanted, atol=0.02, rtol=0)


def test_total_indices_of_a_constant_are_zero() -> None:
    assert torch.equal(total_indices(lambda p: torch.ones(len(p), 2), 3, 0), torch.zeros(3, 2))


def test_crops_keep_the_papers_proportions() -> None:
    images = torch.arange(28 * 28.0).view(1, 1, 28, 28).repeat(2, 1, 1, 1)
    images[1] += 1000
    crops = crops_of(images)
    assert crops.shape == (2 * 16, 1, 28, 28)
    assert bool((crops[:16] < 1000).all())
    assert bool((crops[16:] >= 1000).all())
    corner = images[:1, :, :8, :8]  # 64 / 224 of the side
    wanted = torch.nn.functional.interpolate(corner, (28, 28), mode="bilinear")
    torch.testing.assert_close(crops[:1], wanted)
    assert crops_of(torch.zeros(1, 3, 224, 224)).shape == (16, 3, 224, 224)


def test_craft_worth_comes_from_the_class_and_its_codes_give_the_features_back() -> None:
    method, sample = Craft(6), tiny_task().sample("test", 6)
    _fitted(method)
    assert bool((method.importance >= 0).all())
    scores = method.own_scores(sample.inputs, sample.targets)
    everyone = method.scores(sample.inputs)
    torch.testing.assert_close(scores, everyone[torch.arange(6), sample.targets], atol=1e-3, rtol=0)
    worth = method.importance[sample.targets]
    maps = method.maps(sample.inputs, sample.targets)
    torch.testing.assert_close(maps, (scores * worth[:, :, None, None]).sum(1))
    found = method.concepts(sample.inputs, sample.targets)
    own = found.importance.view(6, 3, 6)[torch.arange(6), sample.targets]
    assert torch.equal(own, worth)
    assert found.importance.sum() == pytest.approx(float(worth.sum()), rel=1e-5)
    features = method.tap.features(sample.inputs)
    back = torch.einsum("nkhw,nkd->ndhw", scores, method.bases[sample.targets])
    assert (features - back).norm() < 0.5 * features.norm()
