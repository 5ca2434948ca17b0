"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmlab.compare.gather import Table
from mmlab.compare.rows import seeds


@dataclass(frozen=True)
class Sheet:
    """A table that is the same in the terminal and on a report's page.

    Attributes:
        dataset: that it is about, with its variant.
        title: a few words.
        text: what the numbers are.
        head: over the columns.
        rows: the first cell names the row.
        warnings: what to beware of in comparing the rows.
    """

    dataset: str
    title: str
    text: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    warnings: tuple[str, ...]

    def markdown(self) -> str:
        """As Markdown."""
        return markdown(f"**{self.dataset}**, {self.text}", self.head, self.rows, self.warnings)


def results_table(found: Table) -> str:
    """One data set's table, with what to beware of below it."""
    return markdown(
        f"**{found.dataset}**, {found.subject}, {found.samples} samples, mean ± standard deviation over seeds",
        ["method", "seeds", *(column.title for column in found.columns)],
        [
            [label, len(seeds(runs)), *(found.cell(label, column) for column in found.columns)]
            for label, runs in found.rows.items()
        ],
        found.warnings,
    )


def markdown(caption: str, head: Sequence[object], rows: Sequence[Sequence[object]], notes: Sequence[str]) -> str:
    """A table with a caption above it and sentences below."""
    lines = [caption, "", _row(head), _row(["---"] * len(head)), *map(_row, rows)]
    return "\n".join([*lines, "", *notes] if notes else lines)


def _row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"
