"""A bank told in words: where it comes from, and what it has at each depth."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Protocol

from captum_kmex.bank.codebook import Codebook
from captum_kmex.text.counts import counted

__all__ = ["BankFacts", "bank_html", "bank_summary", "depth_rows"]

_COLUMNS = ("layers", "prototypes", "numbers each", "feature vectors", "patches each")


class BankFacts(Protocol):
    """What is told of a ``PrototypeBank``."""

    @property
    def method(self) -> str:
        """Name of the class that fitted it."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Layer names, shallow to deep."""

    @property
    def codebooks(self) -> tuple[Codebook, ...]:
        """One a depth, the whole stack first."""

    @property
    def n_classes(self) -> int:
        """Number of classes."""

    @property
    def has_logits(self) -> bool:
        """Whether the model of the fit returned logits."""


def bank_summary(bank: BankFacts) -> str:
    """Return a line about a bank, and one about each of its depths."""
    book = bank.codebooks[0]
    if book.is_agnostic:
        told = counted(bank.n_classes, "class") if bank.has_logits else "no logits"
        classes = f"class-agnostic, {told}"
    else:
        fitted = len(book.membership.unique())
        classes = f"{fitted} of {counted(bank.n_classes, 'class')}"
    lines = [f"PrototypeBank of {bank.method}: {classes}"]
    for row in depth_rows(bank):
        layers, prototypes, width, rows, patches = row
        lines.append(
            f"  {layers}: {counted(prototypes, 'prototype')} of {counted(width, 'number')}, "
            f"{counted(rows, 'feature vector')}, {counted(patches, 'patch')} each"
        )
    return "\n".join(lines)


def bank_html(bank: BankFacts) -> str:
    """Return the same as a table."""
    title = html.escape(bank_summary(bank).splitlines()[0])
    head = "".join(f"<th>{column}</th>" for column in _COLUMNS)
    lines = (
        "".join(f"<td>{html.escape(format(cell, ',') if isinstance(cell, int) else cell)}</td>"
                for cell in row)
        for row in depth_rows(bank)
    )  # fmt: skip
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return (
        f"<p><b>{title}</b></p>\n<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n"
        "</tbody></table>"
    )


def depth_rows(bank: BankFacts) -> Sequence[tuple[str, int, int, int, int]]:
    """Return layers, prototypes, their length, rows, and patches a prototype, of each depth."""
    return [
        (
            " + ".join(bank.layers[i:]) or bank.method,
            len(book.centroids),
            book.centroids.shape[1],
            int(book.counts.sum()),
            0 if book.representatives is None else book.representatives.indices.shape[1],
        )
        for i, book in enumerate(bank.codebooks)
    ]
