"""What messages say of values: types, shapes and names, never more than a line or two."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from nets import make_net
from torch import Tensor, nn

from captum_kmex import ClassifierPrototypes
from captum_kmex.text.descriptions import described

X = torch.zeros(2, 3)


@dataclass
class Output:
    logits: Tensor
    hidden: object = None


Pair = namedtuple("Pair", "first second")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (X, "float32 tensor (2, 3)"),
        (X.numpy(), "float32 array (2, 3)"),
        ({"a": X, 1: None}, "dict of 'a': float32 tensor (2, 3), 1: None"),
        (Pair(X, "b"), "Pair of 'first': float32 tensor (2, 3), 'second': str 'b'"),
        (Output(X), "Output of 'logits': float32 tensor (2, 3), 'hidden': None"),
        (Output, "type"),
        ([], "list of nothing"),
        (list(range(99)), "list of int 0, int 1, int 2, int 3, int 4, int 5, ... (99 in all)"),
        (((1, (2, (3,))), None), "tuple of tuple of int 1, tuple, None"),
        (np.float32(0.5), "float32 "),
        ({1, 2}, "set"),
    ],
)
def test_description(value, text):
    assert described(value).startswith(text)


def test_descriptions_of_long_values_are_short():
    deep: list[object] = []
    deep.append(deep)
    assert described(deep) == "list of list of list"
    assert len(described({"x" * 10: "y" * 10**6})) < 100


class Returning(nn.Module):
    def __init__(self, make) -> None:
        super().__init__()
        self.net, self.make = make_net(), make

    def forward(self, x: Tensor) -> object:
        return self.make(self.net(x))


@pytest.mark.parametrize(
    ("make", "got"),
    [
        (lambda z: {"one": z, "aux": z}, r"dict of 'one': float32 tensor .*, 'aux': float32"),
        (lambda z: (z, z[:, :2]), r"tuple of float32 tensor \(12, 3\), float32 tensor \(12, 2\)"),
        (lambda z: [z, z], "list of float32 tensor"),
        (
            lambda z: Output(z[:, :, None]),
            r"Output of 'logits': float32 tensor \(12, 3, 1\), 'hidden': None",
        ),
        (lambda z: Pair(z, z), "Pair of 'first': "),
        (lambda z: z[:, :, None], r"\(12, 3, 1\)\. Wrap"),
        (lambda z: z.argmax(1), r"\(12,\) of torch.int64"),
        (lambda z: None, "None"),
        (lambda z: float(z.sum()), "float "),
    ],
)
def test_outputs_that_are_no_logits_are_described(make, got, images):
    with pytest.raises(ValueError, match=rf"must return logits \(N, J\) for 12 images; got {got}"):
        ClassifierPrototypes(Returning(make).eval()).attribute(images)
