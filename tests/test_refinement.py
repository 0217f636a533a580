"""Passes over all rows against Lloyd steps in memory, in float64."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import LAYERS, make_net
from sklearn.cluster import KMeans
from torch import Tensor

from captum_kmex import KMExAttribution, LayerKMeansAttribution
from captum_kmex.bank import Codebook
from captum_kmex.class_prototypes import ClassPrototypes
from captum_kmex.composite import StackedBlocks
from captum_kmex.refinement import LloydSums
from captum_kmex.rows import PooledRows

pytestmark = pytest.mark.filterwarnings("ignore:.*kept fewer than")

N_IMAGES, K = 24, 3
CLASSES = torch.arange(N_IMAGES) % 2


@pytest.fixture(scope="module")
def stack() -> StackedBlocks:
    generator = torch.Generator().manual_seed(0)
    blocks = tuple(
        torch.rand(N_IMAGES, width, size, size, generator=generator)
        for width, size in ((5, 8), (7, 4))
    )
    return StackedBlocks(blocks, (1.0, 2.0))


def dense(stack: StackedBlocks, images: Tensor) -> np.ndarray:
    """All composite rows of some images."""
    pixels = torch.arange(stack.grid[0] * stack.grid[1])
    rows = stack.rows(images.repeat_interleave(len(pixels)), pixels.repeat(len(images)))
    return rows.double().numpy()


def start(stack: StackedBlocks, counts: tuple[int, ...] = (K, K)) -> Codebook:
    """Rows of each class as its first centroids."""
    parts, membership = [], []
    for c, count in enumerate(counts):
        own = (c == CLASSES).nonzero().squeeze(1)[:count]
        parts.append(stack.rows(own, 7 * torch.arange(count)))
        membership += [c] * count
    centroids, zeros = torch.cat(parts), torch.zeros(len(membership))
    return Codebook(centroids, torch.tensor(membership), zeros.long(), zeros)


def stepped(stack: StackedBlocks, book: Codebook, batch: int = 5) -> Codebook:
    sums = LloydSums(book, 2)
    for indices in torch.arange(N_IMAGES).split(batch):
        sums.add(stack.select(indices), (torch.arange(len(indices)), CLASSES[indices]))
    return sums.result()


def lloyd_step(
    rows: np.ndarray, centroids: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return means, sizes and mean squared distances to the means."""
    labels = ((rows[:, None] - centroids) ** 2).sum(2).argmin(1)
    means, spread = centroids.copy(), np.zeros(len(centroids))
    for k in np.unique(labels):
        means[k] = rows[labels == k].mean(0)
        spread[k] = ((rows[labels == k] - means[k]) ** 2).sum(1).mean()
    return means, np.bincount(labels, minlength=len(centroids)), spread


@pytest.mark.parametrize("counts", [(3, 3), (1, 4), (5, 2)], ids=["even", "fewer", "more"])
def test_pass_equals_lloyd_step_in_memory(stack, counts):
    book = start(stack, counts)
    found = stepped(stack, book)
    for c in range(2):
        rows = dense(stack, (c == CLASSES).nonzero().squeeze(1))
        own = book.of_class(c)
        means, sizes, spread = lloyd_step(rows, book.centroids[own].double().numpy())
        np.testing.assert_allclose(found.centroids[own].numpy(), means, atol=1e-5)
        np.testing.assert_array_equal(found.counts[own].numpy(), sizes)
        np.testing.assert_allclose(found.spread[own].numpy(), spread, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 7, 24])
def test_pass_does_not_depend_on_batch_size(stack, batch):
    book = start(stack)
    torch.testing.assert_close(
        stepped(stack, book, batch).centroids, stepped(stack, book).centroids, atol=1e-6, rtol=0
    )


def test_passes_never_raise_inertia_and_end_at_rest(stack):
    book, inertias = start(stack), []
    for _ in range(60):
        book = stepped(stack, book)
        inertias.append(float((book.spread * book.counts).sum()))
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in pairwise(inertias))
    torch.testing.assert_close(stepped(stack, book).centroids, book.centroids, atol=1e-5, rtol=0)


def test_cluster_without_rows_keeps_its_centroid(stack):
    book = start(stack)
    book.centroids[1] = 100.0
    found = stepped(stack, book)
    assert found.counts[1] == 0
    assert torch.equal(found.centroids[1], book.centroids[1])
    assert found.spread[1] == 0


def test_image_of_two_classes_serves_both(stack):
    sums = LloydSums(start(stack), 2)
    sums.add(stack.select(torch.tensor([0])), (torch.tensor([0, 0]), torch.tensor([0, 1])))
    counts = sums.result().counts
    assert counts[:K].sum() == counts[K:].sum() == stack.grid[0] * stack.grid[1]


def test_class_without_prototypes_is_left_out(stack):
    book = start(stack, (K,))
    assert stepped(stack, book).counts.sum() == 12 * stack.grid[0] * stack.grid[1]


def test_class_agnostic_clusters_vote_by_the_rows_in_them(stack):
    one = start(stack)
    votes = torch.full((2 * K, 4), 0.25)
    book = Codebook(one.centroids, votes, one.counts, one.spread)
    sums = LloydSums(book, 4)
    sums.add(stack, (torch.arange(N_IMAGES), CLASSES + 1))
    found = sums.result()
    rows, centroids = dense(stack, torch.arange(N_IMAGES)), one.centroids.double().numpy()
    labels = ((rows[:, None] - centroids) ** 2).sum(2).argmin(1)
    tags = (CLASSES + 1).repeat_interleave(stack.grid[0] * stack.grid[1]).numpy()
    for k in range(2 * K):
        shares = np.bincount(tags[labels == k], minlength=4) / (labels == k).sum()
        np.testing.assert_allclose(found.membership[k].numpy(), shares, atol=1e-6)


def test_sums_of_two_halves_add_up(stack):
    book = start(stack)
    whole, parts = LloydSums(book, 2), [LloydSums(book, 2) for _ in range(2)]
    everyone = torch.arange(N_IMAGES)
    whole.add(stack, (everyone, CLASSES))
    for part, own in zip(parts, everyone.chunk(2), strict=True):
        part.add(stack.select(own), (torch.arange(len(own)), CLASSES[own]))
    states = [part.state() for part in parts]
    parts[0].restore({name: states[0][name] + states[1][name] for name in states[0]})
    torch.testing.assert_close(parts[0].result().centroids, whole.result().centroids)


def test_pooled_rows_refine_as_sklearn(images, labels):
    """From the same start, one step over the embeddings themselves."""
    net, data = make_net(), [(images[i : i + 5], labels[i : i + 5]) for i in range(0, 12, 5)]
    attr = KMExAttribution(net, n_prototypes=2).fit(data, refine=1)
    begun = KMExAttribution(net, n_prototypes=2).fit(data)
    with torch.no_grad():
        embeddings = net.pool(net.stage3(net.stage2(net.stage1(images)))).flatten(1).double()
    for c in range(3):
        own = attr.prototype_classes == c
        theirs = KMeans(2, init=begun.prototypes[own].double().numpy(), n_init=1, max_iter=1)
        theirs.fit(embeddings[labels == c].numpy())
        np.testing.assert_allclose(attr.prototypes[own].numpy(), theirs.cluster_centers_, atol=1e-5)
    assert int(attr.bank_.codebooks[0].counts.sum()) == 12


def test_refined_bank_has_lower_inertia_over_all_rows(images, labels):
    data, net = [(images, labels)], make_net()

    def inertia(refine: int) -> float:
        attr = LayerKMeansAttribution(net, LAYERS, n_prototypes=3)
        book = attr.fit(data, refine=refine, memory_budget=12_000).bank_.codebooks[0]
        one_more = LayerKMeansAttribution(net, LAYERS, n_prototypes=3)
        assert refine == 0 or int(book.counts.sum()) == 12 * 16 * 16
        again = one_more.fit(data, refine=refine + 1, memory_budget=12_000).bank_.codebooks[0]
        return float((again.spread * again.counts).sum())

    assert inertia(4) < inertia(0)


def test_loader_that_is_read_once_is_refused_before_any_work(images, labels):
    read = []

    def batches():
        read.append(1)
        yield images, labels

    attr = KMExAttribution(make_net(), n_prototypes=2)
    with pytest.raises(ValueError, match=r"refine reads the loader again.*pass a DataLoader"):
        attr.fit(batches(), refine=1)
    assert read == []


def test_negative_refine_is_refused(images, labels):
    with pytest.raises(ValueError, match="refine at least 0; got 10, 100 and -1"):
        KMExAttribution(make_net()).fit([(images, labels)], refine=-1)


def test_class_prototypes_stand_in_the_order_of_the_codebook():
    centroids = torch.arange(5.0)[:, None]
    found = ClassPrototypes.of(centroids, torch.tensor([3, 1, 3, 3, 1]))
    assert found.owner.tolist() == [[-1, -1, -1], [1, 4, -1], [-1, -1, -1], [0, 2, 3]]
    assert found.centroids[1].flatten().tolist() == [1, 4, 1]
    assert found.centroids[3].flatten().tolist() == [0, 2, 3]
    assert found.known(torch.tensor([3, 0, 1, 9, 2])).tolist() == [0, 2]


def test_class_prototypes_come_a_few_images_at_a_time():
    found = ClassPrototypes.of(torch.rand(4, 2), torch.tensor([0, 0, 1, 1]))
    chunks = list(found.chunks(torch.tensor([0, 5, 1, 0, 1]), n_pixels=10, budget=40))
    assert [chunk.tolist() for chunk in chunks] == [[0, 2], [3, 4]]


@pytest.mark.parametrize("own", [False, True], ids=["shared", "an_image"])
def test_pooled_rows_agree_with_distances(own):
    generator = torch.Generator().manual_seed(0)
    rows = PooledRows(torch.randn(6, 4, generator=generator))
    prototypes = torch.randn(6, 3, 4, generator=generator) if own else torch.randn(3, 4)
    each = prototypes if own else prototypes.expand(6, -1, -1)
    distances = (rows.embeddings[:, None] - each).square().sum(2)
    nearest, far = rows.nearest(prototypes)
    assert torch.equal(nearest.flatten(), distances.argmin(1))
    torch.testing.assert_close(far.flatten(), distances.amin(1))
    scores = rows.scores(prototypes).flatten(1)
    torch.testing.assert_close(rows.squared_norms.flatten(1) - 2 * scores, distances)
    members = torch.nn.functional.one_hot(nearest.flatten(), 3).float()[..., None, None]
    sums = rows.sums(members)
    for i in range(6):
        assert torch.equal(sums[i, nearest[i].item()], rows.embeddings[i])
        assert sums[i].abs().sum() == rows.embeddings[i].abs().sum()
