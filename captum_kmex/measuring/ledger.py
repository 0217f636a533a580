"""The accounts of a batch whose evidence was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from captum_kmex.explaining.account import Account, accounts_by_segments
from captum_kmex.explaining.evidence import Question, summed
from captum_kmex.explaining.ledger import LedgerRow
from captum_kmex.explaining.segmenters import Competition
from captum_kmex.measuring.account import ImageAccount, cannot_be_told
from captum_kmex.measuring.evidence import MeasuredEvidence, Measuring

__all__ = ["measured_accounts"]


def measured_accounts(
    measure: Measuring, questions: Sequence[Question], depth: int, competition: Competition
) -> list[Account]:
    """Return maps, segments, votes, and ledgers with what was measured beside the evidence."""
    found = measure(questions, depth, competition, minimal=True)
    accounts = accounts_by_segments(
        [summed(of_one.density) for of_one in found],
        found[0].segments,
        [of_one.baseline for of_one in found],
        measure.explainer,
        depth,
        competition,
    )
    return list(map(_told, accounts, found))


def _told(account: Account, found: MeasuredEvidence) -> Account:
    ledger = tuple(map(_measured_rows, account.ledger, found.accounts))
    enough, needed = ([getattr(m, name) for m in found.minimal] for name in ("enough", "needed"))
    return replace(
        account,
        ledger=ledger,
        evidence="measured",
        enough=tuple(enough) or None,
        needed=tuple(needed) or None,
    )


def _measured_rows(rows: Sequence[LedgerRow], found: ImageAccount) -> tuple[LedgerRow, ...]:
    # an image's account lists its segments by number
    place = {segment: i for i, segment in enumerate(sorted(row.segment for row in rows))}
    order = torch.tensor([place[row.segment] for row in rows])
    covariance = found.covariance[order][:, order]
    errors = covariance.diagonal().clamp_min(0).sqrt()
    alike = cannot_be_told(torch.tensor([row.evidence for row in rows]), covariance)
    return tuple(
        replace(
            row,
            removed=float(found.removed[order[i]]),
            kept=float(found.kept[order[i]]),
            error=float(errors[i]),
            ties=tuple(rows[j].segment for j in alike[i].nonzero()[:, 0].tolist()),
        )
        for i, row in enumerate(rows)
    )
