"""Tables for a paper: LaTeX with booktabs."""

from __future__ import annotations

import re

from mmlab.compare.gather import Column, Table
from mmlab.compare.rows import ABSENT, seeds

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "_": r"\_",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
    "$": r"\$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "–": "--",
    "−": "$-$",
}
HEAD = r"""% Needs \usepackage{booktabs}. Bold: the best of a column; underlined: the second best; neither is a test."""


def escape(text: str) -> str:
    r"""A text as LaTeX shows it: ``acc_audio`` becomes ``acc\_audio``."""
    return "".join(SPECIAL.get(letter, letter) for letter in text)


def latex(tables: list[Table]) -> str:
    """One table for each data set, as large as its content; below the numbers nothing but the caption says more."""
    return "\n\n".join([HEAD, *map(_table, tables)]) + "\n"


def _table(table: Table) -> str:
    best = {column.title: table.best(column) for column in table.columns}
    rows = []
    for label, runs in table.rows.items():
        cells = [_cell(table, label, column, *best[column.title]) for column in table.columns]
        rows.append(" & ".join([escape(label), str(len(seeds(runs))), *cells]) + r" \\")
    titles = " & ".join(["method", "seeds", *(escape(column.title) for column in table.columns)])
    notes = "".join(f" {escape(warning)}" for warning in table.warnings)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape(table.dataset)}, {escape(table.subject)}, {table.samples} samples: mean $\pm$ "
            rf"standard deviation over seeds.{notes}}}",
            rf"\label{{tab:{re.sub('[^a-z0-9]+', '-', table.dataset.lower()).strip('-')}}}",
            rf"\begin{{tabular}}{{lr{'r' * len(table.columns)}}}",
            r"\toprule",
            rf"{titles} \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def _cell(table: Table, label: str, column: Column, best: frozenset[str], second: frozenset[str]) -> str:
    text = table.cell(label, column)
    if text == ABSENT:
        return "--"
    number = text.replace("±", r"\pm")
    if label in best:
        return rf"$\mathbf{{{number}}}$"
    return rf"\underline{{${number}$}}" if label in second else f"${number}$"
