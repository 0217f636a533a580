"""Every kind of loader gives the same images, indices and labels in every pass."""

from __future__ import annotations

import pytest
import torch
from conftest import make_net
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
)

from captum_kmex import LayerKMeansAttribution
from captum_kmex.data.batches import IndexedBatches
from captum_kmex.data.labels import class_pairs

COUNT = 10
CPU = torch.device("cpu")
LOGITS = torch.tensor([[0.0, 1.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 3.0]])


@pytest.fixture
def dataset() -> TensorDataset:
    """Image i is filled with i and has label 100 + i."""
    values = torch.arange(COUNT)
    return TensorDataset(values.float().view(-1, 1, 1, 1).expand(-1, 1, 2, 2), 100 + values)


def read(batches: IndexedBatches) -> tuple[list[int], list[int], list[int]]:
    """Return image values, labels and indices in order."""
    values, labels, indices = [], [], []
    for batch in batches:
        values += batch.inputs[0][:, 0, 0, 0].int().tolist()
        labels += [int(label) - 100 for label in batch.targets]
        indices += batch.indices.tolist()
    return values, labels, indices


def test_shuffled_loader_is_read_in_dataset_order(dataset):
    loader = DataLoader(dataset, batch_size=4, shuffle=True)
    values, labels, indices = read(IndexedBatches(loader, CPU))
    assert values == labels == indices == list(range(COUNT))


def test_shuffled_loader_that_drops_last_is_read_completely(dataset):
    loader = DataLoader(dataset, batch_size=4, shuffle=True, drop_last=True)
    assert read(IndexedBatches(loader, CPU))[2] == list(range(COUNT))


def test_plain_loader_keeps_batch_size_and_length(dataset):
    batches = IndexedBatches(DataLoader(dataset, batch_size=4), CPU)
    assert len(batches) == 3
    assert [len(batch.indices) for batch in batches] == [4, 4, 2]


def test_loader_keeps_collate_fn(dataset):
    def doubled(items):
        return torch.stack([2 * x for x, _ in items]), torch.tensor([y for _, y in items])

    loader = DataLoader(dataset, batch_size=4, shuffle=True, collate_fn=doubled)
    values, labels, _ = read(IndexedBatches(loader, CPU))
    assert values == [2 * label for label in labels]


@pytest.mark.parametrize("seed", range(3))
def test_subset_sampler_keeps_dataset_indices(dataset, seed):
    torch.manual_seed(seed)
    loader = DataLoader(dataset, batch_size=2, sampler=SubsetRandomSampler([1, 4, 7, 8, 9]))
    values, labels, indices = read(IndexedBatches(loader, CPU))
    assert values == labels == indices
    assert sorted(indices) == [1, 4, 7, 8, 9]


@pytest.mark.parametrize(
    "sampler",
    [
        SubsetRandomSampler([1, 4, 7, 8, 9]),
        RandomSampler(range(COUNT), replacement=True, num_samples=15),
        RandomSampler(range(COUNT), num_samples=4),
    ],
    ids=["subset", "replacement", "fewer"],
)
def test_random_sampler_gives_same_images_in_every_pass(dataset, sampler):
    batches = IndexedBatches(DataLoader(dataset, batch_size=3, sampler=sampler), CPU)
    first = read(batches)
    assert read(batches) == first
    assert first[0] == first[1] == first[2]


def test_batch_sampler_of_own_keeps_indices(dataset):
    uneven = [[7, 1], [3], [9, 8, 2]]
    values, labels, indices = read(IndexedBatches(DataLoader(dataset, batch_sampler=uneven), CPU))
    assert values == labels == indices == [7, 1, 3, 9, 8, 2]


def test_torch_batch_sampler_keeps_indices(dataset):
    sampler = BatchSampler(SequentialSampler(dataset), 3, drop_last=True)
    values, _, indices = read(IndexedBatches(DataLoader(dataset, batch_sampler=sampler), CPU))
    assert values == indices == list(range(9))


class Stream(IterableDataset):
    def __iter__(self):
        for i in (5, 3, 8):
            yield torch.full((1, 2, 2), float(i)), 100 + i


def test_iterable_dataset_is_numbered_by_arrival():
    batches = IndexedBatches(DataLoader(Stream(), batch_size=2), CPU)
    values, labels, indices = read(batches)
    assert values == labels == [5, 3, 8]
    assert indices == [0, 1, 2]
    assert batches.is_repeatable


def test_list_of_batches_is_numbered_by_arrival(dataset):
    images, labels = dataset.tensors
    batches = IndexedBatches([(images[6:], labels[6:]), (images[:6], labels[:6])], CPU)
    values, _, indices = read(batches)
    assert values == [6, 7, 8, 9, 0, 1, 2, 3, 4, 5]
    assert indices == list(range(COUNT))
    assert batches.is_repeatable


def test_generator_is_not_repeatable(dataset):
    assert not IndexedBatches((batch for batch in [dataset.tensors]), CPU).is_repeatable


@pytest.mark.parametrize("form", ["tensor", "tuple", "list"])
def test_images_alone_have_no_targets(form):
    x = torch.rand(2, 1, 2, 2)
    batch = next(iter(IndexedBatches([{"tensor": x, "tuple": (x,), "list": [x]}[form]], CPU)))
    assert batch.targets is None
    assert batch.inputs[0] is x


def test_several_inputs_stay_together():
    x, extra, y = torch.rand(2, 1, 2, 2), torch.rand(2, 3), torch.tensor([0, 1])
    batch = next(iter(IndexedBatches([((x, extra), y)], CPU)))
    assert [tuple(tensor.shape) for tensor in batch.inputs] == [(2, 1, 2, 2), (2, 3)]


def test_labels_in_a_list_become_a_tensor():
    batch = next(iter(IndexedBatches([(torch.rand(2, 1, 2, 2), [0, 1])], CPU)))
    assert batch.targets.tolist() == [0, 1]


@pytest.mark.parametrize(
    "make", [lambda d: d, lambda d: d.tensors[0], lambda d: 7], ids=["dataset", "tensor", "number"]
)
def test_loader_that_yields_no_batches_raises(dataset, make):
    with pytest.raises(TypeError, match=r"Wrap it: DataLoader\(dataset, batch_size=64\)"):
        IndexedBatches(make(dataset), CPU)


@pytest.mark.parametrize(
    ("batch", "kind"),
    [
        ({"image": torch.rand(1)}, "dict"),
        ("text", "str"),
        ((), "nothing"),
        (({"x": 1}, 0), "tuple of dict"),
    ],
    ids=["dict", "text", "empty", "dict_inside"],
)
def test_batch_of_other_things_raises(batch, kind):
    with pytest.raises(TypeError, match=f"{kind}.*Adapt it with collate_fn="):
        next(iter(IndexedBatches([batch], CPU)))


@pytest.mark.parametrize("loader", ["shuffled", "subset", "list"])
def test_fit_leaves_global_rng_untouched(images, labels, loader):
    dataset = TensorDataset(images, labels)
    made = {
        "shuffled": DataLoader(dataset, batch_size=5, shuffle=True),
        "subset": DataLoader(dataset, batch_size=5, sampler=SubsetRandomSampler(range(9))),
        "list": [(images, labels)],
    }[loader]
    attr = LayerKMeansAttribution(make_net(), ["stage2", "stage3"], n_prototypes=2)
    before = torch.get_rng_state()
    attr.fit(made)
    assert torch.equal(torch.get_rng_state(), before)


def test_pairs_of_targets_are_images_and_labels():
    images, classes = class_pairs("target", torch.tensor([2, 0, 0], dtype=torch.uint8), LOGITS)
    assert (images.tolist(), classes.tolist()) == ([0, 1, 2], [2, 0, 0])


@pytest.mark.parametrize("labels", ["predicted", None])
def test_pairs_of_predictions_are_argmax_and_ignore_targets(labels):
    images, classes = class_pairs(labels, torch.tensor([0, 0, 0]), LOGITS)
    assert (images.tolist(), classes.tolist()) == ([0, 1, 2], [1, 0, 2])


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bool], ids=str)
def test_pairs_of_multi_hot_targets_count_an_image_for_each_class(dtype):
    hot = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0]]).to(dtype)
    images, classes = class_pairs("target", hot, LOGITS)
    assert (images.tolist(), classes.tolist()) == ([0, 0, 2], [0, 2, 1])


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (None, "yields no labels, but labels='target' needs them"),
        (torch.tensor([0, 1, 3]), "label 3 is out of range for 3 logits"),
        (torch.tensor([0, -1, 1]), "label -1 is out of range for 3 logits"),
        (torch.tensor([0.0, 1.0, 2.0]), r"must be integers \(3,\).*torch.float32"),
        (torch.tensor([0, 1]), r"must be integers \(3,\).*shape \(2,\)"),
        (torch.tensor(0), r"must be integers \(3,\).*shape \(\)"),
        (torch.zeros(3, 4), r"multi-hot labels must be 0 or 1 of shape \(3, 3\).*\(3, 4\)"),
        (torch.full((3, 3), 2), "multi-hot labels must be 0 or 1 .* values 2 to 2"),
        (torch.full((3, 3), 0.5), "multi-hot labels must be 0 or 1 .* values 0.5 to 0.5"),
        (torch.full((3, 1), True), r"multi-hot labels must be 0 or 1 .* shape \(3, 1\)"),
    ],
    ids=[
        "missing",
        "too_large",
        "negative",
        "float",
        "too_few",
        "scalar",
        "multi_hot_width",
        "multi_hot_counts",
        "multi_hot_soft",
        "multi_hot_column",
    ],
)
def test_pairs_raise_for_malformed_targets(targets, message):
    with pytest.raises(ValueError, match=message):
        class_pairs("target", targets, LOGITS)


def test_batches_that_draw_random_numbers_differ_and_leave_the_state():
    class Drawing(Dataset):
        def __len__(self):
            return 6

        def __getitem__(self, index):
            return torch.rand(1, 4, 4)

    before = torch.get_rng_state()
    first, second, third = IndexedBatches(DataLoader(Drawing(), 2), torch.device("cpu"))
    assert not torch.equal(first.inputs[0], second.inputs[0])
    assert not torch.equal(second.inputs[0], third.inputs[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_batch_sampler_keeps_its_batches_of_different_sizes():
    images = [torch.rand(1, 8, 8)] * 3 + [torch.rand(1, 6, 10)] + [torch.rand(1, 8, 8)] * 2
    loader = DataLoader(images, batch_sampler=[[0, 1, 2], [3], [4, 5]])
    batches = list(IndexedBatches(loader, torch.device("cpu")))
    assert [tuple(batch.inputs[0].shape) for batch in batches] == [
        (3, 1, 8, 8),
        (1, 1, 6, 10),
        (2, 1, 8, 8),
    ]
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(6))


def test_loader_with_its_own_iteration_is_read_as_it_comes():
    class Halving(DataLoader):
        def __iter__(self):
            for (x,) in super().__iter__():
                yield x / 2

    loader = Halving(TensorDataset(torch.ones(4, 1, 2, 2)), 2)
    for batch in IndexedBatches(loader, torch.device("cpu")):
        assert torch.equal(batch.inputs[0], torch.full((2, 1, 2, 2), 0.5))


LOADERS = {
    "ordered": lambda data: DataLoader(data, 4),
    "shuffled": lambda data: DataLoader(data, 4, shuffle=True),
    "subset": lambda data: DataLoader(data, 3, sampler=SubsetRandomSampler([1, 4, 7, 8, 9])),
    "uneven": lambda data: DataLoader(data, batch_sampler=[[7, 1], [3], [9, 8, 2]]),
    "list": lambda data: list(DataLoader(data, 4)),
    "stream": lambda data: DataLoader(Stream(), 2),
}


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("count", range(4))
def test_batches_after_some_are_the_rest(dataset, name, count):
    batches = IndexedBatches(LOADERS[name](dataset), CPU)
    whole, rest = list(batches), list(batches.after(count))
    assert len(rest) == max(0, len(whole) - count)
    for ours, theirs in zip(rest, whole[count:], strict=True):
        assert torch.equal(ours.inputs[0], theirs.inputs[0])
        assert torch.equal(ours.targets, theirs.targets)
        assert torch.equal(ours.indices, theirs.indices)


class Counted(TensorDataset):
    """Notes which images are read."""

    def __init__(self, *tensors) -> None:
        super().__init__(*tensors)
        self.read = []

    def __getitem__(self, index):
        self.read.append(index)
        return super().__getitem__(index)


@pytest.mark.parametrize("name", ["ordered", "shuffled", "subset", "uneven"])
def test_batches_after_some_do_not_read_those_before(dataset, name):
    counted = Counted(*dataset.tensors)
    batches = IndexedBatches(LOADERS[name](counted), CPU)
    rest = torch.cat([batch.indices for batch in batches.after(1)]).tolist()
    assert counted.read == rest


def identity(loader) -> dict[str, object]:
    return IndexedBatches(loader, CPU).identity()


def test_identity_of_a_shuffled_loader_is_that_of_the_order_it_is_read_in(dataset):
    first, second = (identity(DataLoader(dataset, 4, shuffle=True)) for _ in range(2))
    assert first == second == identity(DataLoader(dataset, 4))


@pytest.mark.parametrize(
    "other",
    [
        lambda data: DataLoader(data, 5),
        lambda data: DataLoader(data, 4, sampler=range(9, -1, -1)),
        lambda data: DataLoader(data, batch_sampler=[[0, 1], [2, 3, 4, 5], [6, 7, 8, 9]]),
        lambda data: DataLoader(data, 4, drop_last=True),
        lambda data: DataLoader(TensorDataset(*data[:9]), 4),
        lambda data: list(DataLoader(data, 4)),
    ],
    ids=["batch_size", "order", "boundaries", "drop_last", "fewer_images", "list"],
)
def test_identity_of_another_loader_differs(dataset, other):
    assert identity(other(dataset)) != identity(DataLoader(dataset, 4))


def test_identity_of_boundaries_differs_with_equal_sizes_and_order(dataset):
    one, other = ([[0, 1], [2], [3]], [[0], [1, 2], [3]])
    assert identity(DataLoader(dataset, batch_sampler=one)) != identity(
        DataLoader(dataset, batch_sampler=other)
    )
