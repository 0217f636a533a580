"""A refinement pass is one step of Lloyd's algorithm over all rows, held in memory here."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nets import LAYERS, make_net
from sklearn.cluster import KMeans
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from captum_kmex import KMExAttribution, LayerKMeansAttribution
from captum_kmex.bank.prototype_bank import Codebook
from captum_kmex.composite.stack import StackedBlocks
from captum_kmex.fitting.lloyd_pass import LloydSums
from captum_kmex.fitting.rows import PooledRows

pytestmark = pytest.mark.filterwarnings("ignore::captum_kmex.exceptions.FewRowsWarning")

N_CLASSES, N_IMAGES = 3, 24
SMALL_SAMPLE = 40_000  # bytes; too few for all rows, so that a pass has something to improve


@pytest.fixture(scope="module")
def net():
    return make_net()


@pytest.fixture(scope="module")
def x() -> Tensor:
    generator = torch.Generator().manual_seed(4)
    x = 0.5 * torch.rand(N_IMAGES, 1, 18, 15, generator=generator)
    for i in range(N_IMAGES):
        row, column = divmod(i % N_CLASSES, 2)
        x[i, 0, 9 * row : 9 * row + 9, 7 * column : 7 * column + 7] += 1
    return x


@pytest.fixture(scope="module")
def y() -> Tensor:
    return torch.arange(N_IMAGES) % N_CLASSES


def pooled_rows(net, x) -> np.ndarray:
    """Pooled embeddings (N, 1, D)."""
    with torch.no_grad():
        features = net.stage3(net.stage2(net.stage1(x)))
    return features.double().mean((2, 3))[:, None].numpy()


def stacked_rows(net, x, depth) -> np.ndarray:
    """Composite rows (N, P, D) made the long way: resized, divided by their norms, stacked."""
    with torch.no_grad():
        blocks = [net.stage1(x)]
        blocks += [net.stage2(blocks[0])]
        blocks += [net.stage3(blocks[1])]
    own = [block.double() for block in blocks[depth:]]
    size = own[0].shape[2:]
    up = [F.interpolate(block, size, mode="bilinear", align_corners=False) for block in own]
    unit = [u / u.norm(dim=1, keepdim=True).clamp_min(1e-7) for u in up]
    return torch.cat(unit, 1).flatten(2).transpose(1, 2).numpy()


def of_class(rows: np.ndarray, hot: Tensor, c: int) -> np.ndarray:
    return rows[hot[:, c].bool().numpy()].reshape(-1, rows.shape[2])


def lloyd_step(rows: np.ndarray, start: np.ndarray):
    """Return centroids, counts and mean squared distances after one step in float64."""
    far = ((rows[:, None] - start) ** 2).sum(2)
    labels = far.argmin(1)
    counts = np.bincount(labels, minlength=len(start))
    centroids, spread = start.copy(), np.zeros(len(start))
    for k in np.flatnonzero(counts):
        own = rows[labels == k]
        centroids[k] = own.mean(0)
        spread[k] = ((own - centroids[k]) ** 2).sum(1).mean()
    return centroids, counts, spread


def inertia(rows: np.ndarray, centroids: np.ndarray) -> float:
    return float(((rows[:, None] - centroids) ** 2).sum(2).min(1).sum())


class Case:
    """An attribution, and its rows at each depth in memory."""

    def __init__(self, name: str, net, x: Tensor) -> None:
        self.name, self.net, self.x = name, net, x
        depths = range(len(LAYERS))
        self.rows = (
            [pooled_rows(net, x)]
            if name == "kmex"
            else [stacked_rows(net, x, depth) for depth in depths]
        )

    def fit(self, y: Tensor | None, /, refine: int, n_prototypes=3, batch=7, **options):
        make = {
            "kmex": lambda **k: KMExAttribution(self.net, **k),
            "layers": lambda **k: LayerKMeansAttribution(self.net, LAYERS, **k),
        }[self.name]
        data = TensorDataset(self.x) if y is None else TensorDataset(self.x, y)
        options = {"n_init": 1, "max_iter": 1, "n_representatives": 0} | options
        attribution = make(n_prototypes=n_prototypes)
        return attribution.fit(DataLoader(data, batch), refine=refine, **options).bank_

    def books(self, *arguments, **options):
        """Yield rows, the codebook before and the codebook after one pass, depth by depth."""
        before = self.fit(*arguments, refine=0, **options).codebooks
        after = self.fit(*arguments, refine=1, **options).codebooks
        yield from zip(self.rows, before, after, strict=True)


@pytest.fixture(params=["kmex", "layers"])
def case(request, net, x) -> Case:
    return Case(request.param, net, x)


def check_step(rows: np.ndarray, before: Codebook, after: Codebook, own: Tensor) -> None:
    """Compare one class's prototypes with a step in memory."""
    start, found = before.centroids[own].double().numpy(), after.centroids[own].double().numpy()
    centroids, counts, spread = lloyd_step(rows, start)
    # one row in ten thousand may change sides by rounding
    assert np.abs(after.counts[own].numpy() - counts).sum() <= 2e-4 * len(rows)
    assert after.counts[own].sum() == len(rows)
    np.testing.assert_allclose(found, centroids, atol=1e-5)
    np.testing.assert_allclose(after.spread[own].numpy(), spread, rtol=1e-4, atol=1e-5)


def test_pass_equals_a_lloyd_step_in_memory(case, y):
    hot = F.one_hot(y, N_CLASSES)
    for rows, before, after in case.books(y, memory_budget=SMALL_SAMPLE):
        for c in range(N_CLASSES):
            check_step(of_class(rows, hot, c), before, after, before.of_class(c))


def test_pass_equals_a_lloyd_step_of_sklearn(case, y):
    hot = F.one_hot(y, N_CLASSES)
    for rows, before, after in case.books(y, memory_budget=SMALL_SAMPLE):
        own = before.of_class(1)
        start = before.centroids[own].double().numpy()
        expected = KMeans(3, init=start, n_init=1, max_iter=1).fit(of_class(rows, hot, 1))
        np.testing.assert_allclose(after.centroids[own], expected.cluster_centers_, atol=1e-5)


def test_ragged_classes_equal_a_lloyd_step_each(case, y):
    hot, counts = F.one_hot(y, N_CLASSES), {0: 1, 1: 4, 2: 2}
    for rows, before, after in case.books(y, n_prototypes=counts):
        assert after.membership.tolist() == [0] + [1] * 4 + [2] * 2
        for c in range(N_CLASSES):
            check_step(of_class(rows, hot, c), before, after, before.of_class(c))


def test_multi_hot_image_counts_for_each_of_its_classes(case, y):
    hot = F.one_hot(y, N_CLASSES)
    hot[::4, 0] = 1
    hot[5] = 0
    for rows, before, after in case.books(hot):
        for c in range(N_CLASSES):
            check_step(of_class(rows, hot, c), before, after, before.of_class(c))


def test_classes_left_out_take_no_part(case, y):
    hot = F.one_hot(y, N_CLASSES)
    for rows, before, after in case.books(y, classes=[2, 0]):
        assert after.membership.tolist() == [2] * 3 + [0] * 3
        for c in (0, 2):
            check_step(of_class(rows, hot, c), before, after, before.of_class(c))


def test_class_agnostic_clusters_vote_as_all_their_rows_do(x):
    net = make_net()
    with torch.no_grad():
        net.head.bias[1] += (net(x)[:, 0] - net(x)[:, 1]).median()
        predicted = net(x).argmax(1)
    assert len(predicted.unique()) > 1
    case = Case("layers", net, x)
    for rows, before, after in case.books(None, labels=None, n_prototypes=5):
        everyone = rows.reshape(-1, rows.shape[2])
        check_step(everyone, before, after, torch.arange(5))
        start = before.centroids.double().numpy()
        labels = ((everyone[:, None] - start) ** 2).sum(2).argmin(1)
        votes = np.zeros((5, N_CLASSES))
        np.add.at(votes, (labels, predicted.numpy().repeat(rows.shape[1])), 1)
        np.testing.assert_allclose(after.membership, votes / votes.sum(1, keepdims=True), atol=2e-4)


def test_inertia_never_rises_with_passes(case, y):
    hot = F.one_hot(y, N_CLASSES)
    banks = [case.fit(y, refine=n, memory_budget=SMALL_SAMPLE) for n in range(4)]
    for depth, rows in enumerate(case.rows):
        totals = [
            sum(
                inertia(of_class(rows, hot, c), book.centroids[book.of_class(c)].double().numpy())
                for c in range(N_CLASSES)
            )
            for book in (bank.codebooks[depth] for bank in banks)
        ]
        for earlier, later in pairwise(totals):
            assert later <= earlier * (1 + 1e-6)  # centroids are rounded to float32
        # all of a class's few embeddings are in the sample, which leaves nothing to improve
        assert case.name == "kmex" or totals[-1] < totals[0]


def test_passes_add_up_to_steps_one_after_the_other(case, y):
    hot = F.one_hot(y, N_CLASSES)
    start, after = (case.fit(y, refine=n).codebooks[-1] for n in (0, 3))
    for c in range(N_CLASSES):
        own = start.of_class(c)
        centroids = start.centroids[own].double().numpy()
        for _ in range(3):
            centroids, counts, _ = lloyd_step(of_class(case.rows[-1], hot, c), centroids)
        np.testing.assert_allclose(after.centroids[own], centroids, atol=1e-5)
        assert after.counts[own].tolist() == counts.tolist()


@pytest.mark.parametrize("batch", [1, 5, N_IMAGES])
def test_pass_does_not_depend_on_batch_size(case, y, batch):
    expected = case.fit(y, refine=1)
    for ours, theirs in zip(
        case.fit(y, refine=1, batch=batch).codebooks, expected.codebooks, strict=True
    ):
        assert torch.equal(ours.counts, theirs.counts)
        assert torch.allclose(ours.centroids, theirs.centroids, atol=1e-6)
        assert torch.allclose(ours.spread, theirs.spread, atol=1e-6)


def test_patches_are_those_of_the_refined_prototypes(net, x, y):
    case = Case("kmex", net, x)
    book = case.fit(y, refine=2, n_representatives=4).codebooks[0]
    rows = case.rows[0][:, 0]
    for k, c in enumerate(book.membership.tolist()):
        far = np.linalg.norm(rows - book.centroids[k].double().numpy(), axis=1)
        found = book.representatives.indices[k].numpy()
        # squared distances are differences of squared norms below 1, rounded to 1e-7
        np.testing.assert_allclose(
            far[found] ** 2, np.sort(far[y.numpy() == c])[:4] ** 2, atol=1e-6
        )
        assert (y[found] == c).all()
        assert len(set(found.tolist())) == 4


def stack(features: Tensor) -> StackedBlocks:
    return StackedBlocks((features,), (1.0,))


def a_book(centroids: Tensor, membership: Tensor) -> Codebook:
    k = len(centroids)
    return Codebook(centroids, membership, torch.full((k,), 7), torch.full((k,), 0.5))


@pytest.fixture
def features() -> Tensor:
    return torch.randn(6, 4, 3, 5, generator=torch.Generator().manual_seed(0))


def test_cluster_without_rows_keeps_its_centroid(features):
    centroids = torch.stack([torch.ones(4), torch.full((4,), 100.0)])
    sums = LloydSums(a_book(centroids, torch.tensor([0, 0])), 1)
    sums.add(stack(features), (torch.arange(6), torch.zeros(6, dtype=torch.int64)))
    book = sums.result()
    assert torch.equal(book.centroids[1], centroids[1])
    assert book.counts.tolist() == [90, 0]
    assert book.spread[1] == 0


def test_class_agnostic_cluster_without_rows_keeps_its_votes(features):
    votes = torch.tensor([[0.5, 0.5], [0.25, 0.75]])
    centroids = torch.stack([torch.ones(4), torch.full((4,), 100.0)])
    sums = LloydSums(a_book(centroids, votes), 2)
    sums.add(stack(features), (torch.arange(6), torch.tensor([0, 0, 0, 0, 0, 1])))
    book = sums.result()
    assert torch.equal(book.membership[1], votes[1])
    assert torch.allclose(book.membership[0], torch.tensor([5 / 6, 1 / 6]))


def test_images_of_unknown_classes_are_left_out(features):
    book = a_book(torch.randn(2, 4), torch.tensor([1, 1]))
    sums = LloydSums(book, 4)
    sums.add(stack(features), (torch.arange(6), torch.tensor([0, 1, 2, 3, 1, 0])))
    assert sums.result().counts.sum() == 2 * 15


def test_nothing_seen_leaves_the_centroids():
    book = a_book(torch.randn(2, 4), torch.tensor([0, 1]))
    assert torch.equal(LloydSums(book, 2).result().centroids, book.centroids)


def test_sums_of_two_halves_restore_and_go_on(features):
    book = a_book(torch.randn(3, 4), torch.tensor([0, 0, 1]))
    classes = torch.arange(6) % 2
    whole, first, second = (LloydSums(book, 2) for _ in range(3))
    for part in torch.arange(6).split(2):
        whole.add(stack(features[part]), (torch.arange(2), classes[part]))
    for part in torch.arange(6).split(2)[:2]:
        first.add(stack(features[part]), (torch.arange(2), classes[part]))
    second.restore(first.state())
    second.add(stack(features[4:]), (torch.arange(2), classes[4:]))
    for ours, theirs in zip(second.state().values(), whole.state().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_chunks_of_a_large_batch_give_the_same_sums(features, monkeypatch):
    book = a_book(torch.randn(3, 4), torch.tensor([0, 0, 1]))
    pairs = torch.arange(6), torch.arange(6) % 2
    whole, chunked = LloydSums(book, 2), LloydSums(book, 2)
    whole.add(stack(features), pairs)
    monkeypatch.setattr("captum_kmex.fitting.lloyd_pass._SCORES", 1)
    chunked.add(stack(features), pairs)
    assert torch.allclose(whole.result().centroids, chunked.result().centroids, atol=1e-7)
    assert torch.equal(whole.result().counts, chunked.result().counts)


def test_memory_of_a_pass_does_not_grow_with_rows(features):
    sums = LloydSums(a_book(torch.randn(3, 4), torch.tensor([0, 0, 1])), 2)
    sizes = []
    for _ in range(3):
        sums.add(stack(features), (torch.arange(6), torch.arange(6) % 2))
        sizes.append({name: tensor.shape for name, tensor in sums.state().items()})
    held = [value for value in vars(sums).values() if isinstance(value, Tensor)]
    assert sizes == [{"sums": (3, 4), "totals": (3, 2)}] * 3
    assert sum(value.numel() for value in held) == 3 * 4 + 3 * 2


def test_counts_of_many_passes_are_exact():
    """Float32 would stop counting at 2^24 rows."""
    sums = LloydSums(a_book(torch.zeros(1, 4), torch.tensor([0])), 1)
    state = sums.state()
    state["totals"][:, 0] = 2**24
    sums.restore(state)
    sums.add(stack(torch.ones(1, 4, 1, 1)), (torch.tensor([0]), torch.tensor([0])))
    assert sums.result().counts.tolist() == [2**24 + 1]


@pytest.mark.parametrize("name", ["kmex", "layers"])
def test_refine_of_a_loader_read_once_is_refused_before_any_work(net, x, y, name):
    drawn = []

    def once():
        drawn.append(1)
        yield x, y

    attribution = (
        KMExAttribution(net) if name == "kmex" else LayerKMeansAttribution(net, ["stage3"])
    )
    with pytest.raises(ValueError, match="can be read only once; pass a DataLoader"):
        attribution.fit(once(), refine=1)
    assert not drawn


class Shrinking:
    """An iterable that gives fewer batches in its second pass."""

    def __init__(self, batches, left: int) -> None:
        self.batches, self.left, self.passes = batches, left, 0

    def __iter__(self):
        self.passes += 1
        return iter(self.batches if self.passes == 1 else self.batches[: self.left])


@pytest.mark.parametrize("left", [0, 1])
def test_refine_of_a_loader_that_does_not_repeat_is_refused(net, x, y, left):
    loader = Shrinking([(x, y), (x, y)], left)
    message = f"refine read {left * N_IMAGES} images, the first pass {2 * N_IMAGES}; pass a"
    with pytest.raises(ValueError, match=message):
        KMExAttribution(net, n_prototypes=2).fit(loader, refine=1)


@pytest.mark.parametrize("refine", [-1, -5])
def test_negative_number_of_passes_is_refused(net, x, y, refine):
    with pytest.raises(ValueError, match=f"refine={refine} "):
        KMExAttribution(net).fit([(x, y)], refine=refine)


def test_offset_rows_keep_their_spread():
    """Squares less the squared mean would lose the digits of a small spread far out."""
    generator = torch.Generator().manual_seed(0)
    rows = 100 + torch.randn(200, 4, generator=generator)
    book = a_book(torch.full((1, 4), 100.0), torch.tensor([0]))
    sums = LloydSums(book, 1)
    sums.add(PooledRows(rows), (torch.arange(200), torch.zeros(200, dtype=torch.int64)))
    exact = (rows.double() - rows.double().mean(0)).square().sum(1).mean()
    assert sums.result().spread.item() == pytest.approx(float(exact), rel=1e-3)


def test_refined_book_keeps_shape_and_type_of_the_old(features):
    book = a_book(torch.randn(2, 4), torch.tensor([0, 1]))
    sums = LloydSums(book, 2)
    sums.add(stack(features), (torch.arange(6), torch.arange(6) % 2))
    found = sums.result()
    for name in ("centroids", "membership", "counts", "spread"):
        old, new = getattr(book, name), getattr(found, name)
        assert (old.shape, old.dtype) == (new.shape, new.dtype)
    assert found.representatives is None
