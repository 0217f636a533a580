"""What a benchmark test is about: the table and the row that its result fills."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Case"]


@dataclass(frozen=True)
class Case:
    """One row of one table.

    Attributes:
        table: Title of the table.
        row: Name of the row, the method or the shape.
    """

    table: str
    row: str

    @property
    def id(self) -> str:
        """Name of the test, for ``pytest -k``."""
        return f"{self.table}: {self.row}"
