"""A total shared out by allocated evidence."""

from __future__ import annotations

import pytest
import torch

from captum_kmex.measuring.prior import shared_out


@pytest.mark.parametrize(
    ("total", "shares", "wanted"),
    [
        (8.0, [1.0, 3.0], [2.0, 6.0]),
        (8.0, [-5.0, 3.0, 1.0], [0.0, 6.0, 2.0]),
        (-8.0, [-1.0, -3.0, 5.0], [-2.0, -6.0, 0.0]),
        (8.0, [-1.0, -1.0], [4.0, 4.0]),
        (-8.0, [1.0, 0.0], [-4.0, -4.0]),
        (8.0, [0.0, 0.0, 0.0, 0.0], [2.0, 2.0, 2.0, 2.0]),
        (0.0, [1.0, 2.0], [0.0, 0.0]),
    ],
    ids=["for", "cut", "against", "none for", "none against", "flat", "nothing"],
)
def test_total_is_shared_out_by_what_has_its_sign(total, shares, wanted):
    found = shared_out(torch.tensor(total), torch.tensor(shares))
    assert torch.allclose(found, torch.tensor(wanted))
