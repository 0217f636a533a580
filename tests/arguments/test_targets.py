"""Every form of a target that Captum takes, and every one that nobody should take."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from captum._utils.common import _select_targets

from captum_kmex import ClassifierPrototypes
from captum_kmex.arguments.targets import resolve_target
from captum_kmex.exceptions import TargetError

LOGITS = torch.tensor([[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]])


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (None, [1, 0]),
        (2, [2, 2]),
        (-1, [2, 2]),
        (-3, [0, 0]),
        (torch.tensor(1), [1, 1]),
        (torch.tensor([1]), [1, 1]),
        (torch.tensor([2, 0]), [2, 0]),
        (torch.tensor([2, -1], dtype=torch.int32), [2, 2]),
        (torch.tensor([2, 0], dtype=torch.uint8), [2, 0]),
        ([2, 0], [2, 0]),
        ((2,), [2, 2]),
        ((np.int64(-1),), [2, 2]),
        ([(2,), (0,)], [2, 0]),
        ([(2,), 0], [2, 0]),
        (torch.tensor([[1]]), [1, 1]),
        ([1], [1, 1]),
        ([torch.tensor(2), torch.tensor(0)], [2, 0]),
        (np.int64(2), [2, 2]),
        (np.array([2, 0]), [2, 0]),
        (np.array(2, dtype=np.uint8), [2, 2]),
    ],
    ids=[
        "none",
        "int",
        "negative",
        "least",
        "tensor_0d",
        "tensor_one",
        "tensor",
        "tensor_int32",
        "tensor_uint8",
        "list",
        "tuple_of_one",
        "tuple_of_one_numpy",
        "list_of_tuples",
        "list_mixed",
        "tensor_one_2d",
        "list_one",
        "list_of_tensors",
        "numpy_int",
        "numpy_array",
        "numpy_0d",
    ],
)
def test_target_resolves_to_one_class_an_image(target, expected):
    found = resolve_target(target, LOGITS)
    assert found.dtype == torch.int64
    assert found.tolist() == expected


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (3, "target 3 is out of range for 3 logits"),
        (-4, "target -4 is out of range for 3 logits"),
        ([0, 9], "target 9 is out of range"),
        ([0, 1, 2], r"one for each of 2 images; got shape \(3,\)"),
        (torch.zeros(2, 1, dtype=torch.int64), r"one for each of 2 images; got shape \(2, 1\)"),
        (
            [(0, 1), (1, 2)],
            r"has 2 indices in a tuple, but the logits \(N, J\) have one dimension of",
        ),
        (
            (2, 0),
            "has 2 indices .*one dimension of classes; give one integer, or a list.* got tuple",
        ),
        ((), "has 0 indices"),
        ([(1,), ()], "has 0 indices"),
        ((slice(0, 1),), "target must be an integer"),
        ((True,), "target must be an integer"),
        ([[1], [0]], "target must be an integer"),
        (np.array([2**64 - 1, 0], dtype=np.uint64), "target must be an integer"),
        (torch.tensor([1, 0], device="meta"), "target must be an integer"),
        (torch.tensor([], dtype=torch.int64), r"one for each of 2 images; got shape \(0,\)"),
        (1.0, "must be an integer.*got .*float"),
        (True, "must be an integer.*got .*bool"),
        ("cat", "must be an integer.*got .*cat"),
        (torch.tensor([0.0, 1.0]), "got Tensor of torch.float32"),
        (torch.tensor([True, False]), "got Tensor of torch.bool"),
        ([0.5, 1.5], "must be an integer.*got"),
        ([True, False], "must be an integer.*got"),
        ([], "target must be .*got"),
        (np.array([0.5, 1.5]), "got ndarray of float64"),
        (2**70, "must be an integer.*got"),
    ],
    ids=[
        "too_large",
        "too_small",
        "one_too_large",
        "too_many",
        "column",
        "pairs",
        "pair",
        "no_index",
        "one_without_index",
        "slice",
        "bool_in_tuple",
        "nested_lists",
        "uint64_wraps",
        "meta",
        "empty_tensor",
        "float",
        "bool",
        "text",
        "float_tensor",
        "bool_tensor",
        "float_list",
        "bool_list",
        "empty_list",
        "float_array",
        "too_long",
    ],
)
@pytest.mark.parametrize("kind", [AssertionError, ValueError], ids=["assertion", "value"])
def test_target_raises_when_malformed(target, message, kind):
    with pytest.raises(kind, match=message):
        resolve_target(target, LOGITS)


def test_target_that_is_ragged_raises_target_error():
    with pytest.raises(TargetError, match="target must be an integer"):
        resolve_target([[0], [1, 2]], LOGITS)


def test_target_error_names_the_argument():
    with pytest.raises(TargetError, match="contrast 3 is out of range"):
        resolve_target(3, LOGITS, "contrast")


@pytest.mark.parametrize(
    "target",
    [1, -1, (2,), torch.tensor(1), torch.tensor([[2]]), torch.tensor([2, 0]), [2, 0], [(2,), (0,)]],
    ids=["int", "negative", "tuple", "0d", "2d", "tensor", "list", "tuples"],
)
def test_target_selects_what_captum_selects(target):
    ours = LOGITS.gather(1, resolve_target(target, LOGITS)[:, None]).squeeze(1)
    assert torch.equal(ours, _select_targets(LOGITS, target))


@pytest.mark.parametrize("target", [(1,), [(1,), (0,)], [1, 0]], ids=["tuple", "tuples", "list"])
def test_attribution_takes_the_targets_of_captum(net, images, target):
    expected = torch.tensor([1, 1] if target == (1,) else [1, 0])
    attribution = ClassifierPrototypes(net)
    maps = attribution.attribute(images[:2], target=target)
    assert torch.equal(maps, attribution.attribute(images[:2], target=expected))
