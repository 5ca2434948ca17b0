"""The folder that ``mmlab compare --out`` writes: one page, its tables in Markdown, LaTeX and CSV, and its pictures."""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import jinja2

import mmlab
from mmlab.compare.curves import draw_robustness
from mmlab.compare.differences import CAUTION, Differences, differences, differences_table, find_baseline, shown
from mmlab.compare.gather import Column, Table
from mmlab.compare.latex import latex
from mmlab.compare.pictures import draw_balance, draw_learning, draw_ranks
from mmlab.compare.ranks import Ranks, rank
from mmlab.compare.results import Result
from mmlab.compare.robustness import Robustness, robustness_table
from mmlab.compare.rows import cell, heading, is_error, seeds
from mmlab.compare.spreadsheets import means_csv, runs_csv
from mmlab.compare.table import Sheet, results_table
from mmlab.errors import UserError
from mmlab.runs.folder import write_text

MARK = '<meta name="generator" content="mmlab compare">'


@dataclass(frozen=True)
class Picture:
    """A picture of the page.

    Attributes:
        file: in the report's folder.
        title: above it.
        text: what it shows, for those who don't see it, and below it.
        uri: all of it, as the page holds it.
        wide: whether it has many panels and takes the whole width.
    """

    file: str
    title: str
    text: str
    uri: str
    wide: bool = False


@dataclass(frozen=True)
class Section:
    """A data set's part of the page."""

    table: Table
    anchor: str
    warnings: list[str]
    baseline: str | None
    compared: list[Differences]
    robustness: list[Robustness]
    sheets: list[Sheet]
    pictures: list[Picture]
    protocol: str
    seeds: str
    facts: list[tuple[str, list[str]]]


def check_folder(out: Path) -> None:
    """Refuses a folder that holds something else than an older report.

    Raises:
        UserError: in that case.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out is {out}, which is a file; name a folder for the report.")
    page = out / "index.html"
    ours = page.is_file() and MARK in page.read_text(encoding="utf-8", errors="replace")
    if out.is_dir() and any(out.iterdir()) and not ours:
        raise UserError(f"--out is {out}, which holds other files than a report; name a new folder.")


def write_report(
    tables: list[Table],
    tests: list[Robustness],
    sheets: list[Sheet],
    baseline: str | None,
    left_out: list[str],
    out: Path,
) -> Path:
    """Writes the report; an older one is replaced file by file, the page last.

    Args:
        tables: one for each data set.
        tests: under corruptions.
        sheets: further tables, of grids and diagnoses.
        baseline: the label or method that others are compared with; None for the usual ones.
        left_out: sentences on what could not be read.
        out: the folder.

    Returns:
        The page.
    """
    sections = [_section(table, tests, sheets, baseline, out) for table in tables]
    ranks = rank(tables)
    write_text(out / "table.md", _markdown(sections, ranks) + "\n")
    write_text(out / "table.tex", latex(tables))
    write_text(out / "table.csv", means_csv(tables))
    write_text(out / "runs.csv", runs_csv(tables))
    ranks_picture = _draw_ranks(ranks, out) if ranks else None
    page = _page(sections, ranks, ranks_picture, left_out)
    kept = {out / picture.file for section in sections for picture in section.pictures}
    for old in (out / "pictures").glob("*.svg"):
        if old not in kept and not (ranks_picture and old == out / ranks_picture.file):
            old.unlink()
    write_text(out / "index.html", page)
    return out / "index.html"


def _section(table: Table, tests: list[Robustness], sheets: list[Sheet], wanted: str | None, out: Path) -> Section:
    baseline = find_baseline(table, wanted)
    compared = [differences(table, baseline, column) for column in _columns_by_weight(table)] if baseline else []
    own = [test for test in tests if test.dataset == table.dataset]
    runs = [run for group in table.rows.values() for run in group]
    return Section(
        table=table,
        anchor=_slug(table.dataset),
        warnings=_warnings(table),
        baseline=baseline,
        compared=[found for found in compared if found.rows or found.left_out],
        robustness=own,
        sheets=[sheet for sheet in sheets if sheet.dataset == table.dataset],
        pictures=_pictures(table, own, out),
        protocol=", ".join(sorted({str(run["protocol"]) for run in runs})),
        seeds=_spans(sorted(seeds(runs))),
        facts=_facts(runs),
    )


def _columns_by_weight(table: Table) -> list[Column]:
    """The deciding column before the others."""
    first = table.decisive()
    return [first, *(column for column in table.columns if column is not first)]


def _warnings(table: Table) -> list[str]:
    """What to beware of, with what only a page has room for."""
    found = list(table.warnings)
    every = frozenset[int]().union(*(seeds(runs) for runs in table.rows.values()))
    lacking = {label: sorted(every - seeds(runs)) for label, runs in table.rows.items()}
    if any(lacking.values()):
        words = "; ".join(f"{label}: {', '.join(map(str, gone))}" for label, gone in lacking.items() if gone)
        found.append(f"Missing seeds: {words}.")
    runs = [run for group in table.rows.values() for run in group]
    if any(run.get("dataset_details", {}).get("synthetic") for run in runs):
        found.append("Synthetic data: these numbers say nothing about the real data set.")
    official = Counter(label for label, group in table.rows.items() for run in group if run["protocol"] != "honest")
    if official:
        found.append(f"Selected on the test split: {'; '.join(official)}.")
    edited = [label for label, group in table.rows.items() if any("+" in str(run.get("commit")) for run in group)]
    if edited:
        found.append(f"Run from a checkout that was edited after its commit: {'; '.join(edited)}.")
    return found


def _pictures(table: Table, tests: list[Robustness], out: Path) -> list[Picture]:
    name = _slug(table.dataset)
    column = table.decisive()
    found = []
    file = f"pictures/{name}-balance.svg"
    if table.columns[0].fused and draw_balance(table, out / file):
        found.append(
            _picture(
                out,
                file,
                "Balance of the modalities",
                f"{table.subject}: fused, and of each modality; bars are a standard deviation over seeds.",
            )
        )
    file = f"pictures/{name}-learning.svg"
    if draw_learning(table, out / file):
        found.append(
            _picture(
                out,
                file,
                "Learning curves",
                f"Validation {heading(column.metric)}, {column.title}, over the epochs; a line for each seed.",
            )
        )
    if tests:
        file = f"pictures/{name}-robustness.svg"
        draw_robustness(tests, out / file)
        words = "; ".join(f"{test.corruption} on {', '.join(test.corrupted)}" for test in tests)
        text = f"Test {heading(tests[0].metric)} over severity: {words}; bars are a standard deviation over seeds."
        found.append(replace(_picture(out, file, "Under corruption", text), wide=len(tests) > 2))
    return found


def _draw_ranks(ranks: Ranks, out: Path) -> Picture:
    file = "pictures/ranks.svg"
    draw_ranks(ranks, out / file)
    text = "Mean ranks; methods that a bar joins lie less than the critical difference apart (Nemenyi's test, 0.05)."
    return _picture(out, file, "Mean ranks", text)


def _picture(out: Path, file: str, title: str, text: str) -> Picture:
    content = base64.b64encode((out / file).read_bytes()).decode()
    return Picture(file, title, text, f"data:image/svg+xml;base64,{content}")


def _facts(runs: list[Result]) -> list[tuple[str, list[str]]]:
    """What the runs of a table were run on, and how many of them."""
    versions = (", ".join(f"{name} {version}" for name, version in run.get("versions", {}).items()) for run in runs)
    facts = [
        ("protocol", _tally(f"{run['protocol']}, selected on {run.get('selected_on', '?')}" for run in runs)),
        ("selecting metric", _tally(str(run.get("monitor", "?")) for run in runs)),
        ("seeds", _tally(f"seed {run['seed']}" for run in sorted(runs, key=lambda run: run["seed"]))),
    ]
    names = dict.fromkeys(name for run in runs for name in run["splits"])
    for name in names:
        facts.append((f"split {name}", _tally(_split(run, name) for run in runs)))
    return [
        *facts,
        ("commit of mmlab", _tally(str(run.get("commit") or "none (installed package)") for run in runs)),
        ("versions", _tally(versions)),
        ("hardware", _tally(str(run.get("hardware", "?")) for run in runs)),
        ("precision", _tally(str(run.get("precision", "?")) for run in runs)),
    ]


def _split(run: Result, name: str) -> str:
    part = run["splits"].get(name)
    return f"{part['samples']} samples, SHA-256 {part.get('sha256', '?')}" if part else "none"


def _tally(values: Iterable[str]) -> list[str]:
    counts = Counter(values)
    runs = sum(counts.values())
    if len(counts) == 1:
        return [f"{value} (all {runs} runs)" for value in counts]
    return [f"{value} ({count} of {runs} runs)" for value, count in counts.items()]


def _markdown(sections: list[Section], ranks: Ranks | None) -> str:
    parts = []
    for section in sections:
        parts.append(results_table(section.table))
        parts += [differences_table(section.table, section.baseline or "", found) for found in section.compared[:1]]
        parts += map(robustness_table, section.robustness)
        parts += [sheet.markdown() for sheet in section.sheets]
    if ranks:
        rows = "\n".join(f"| {method} | {ranks.mean(method):.2f} |" for method in ranks.places)
        parts.append(
            f"**Mean ranks** over {'; '.join(ranks.datasets)}\n\n| method | mean rank |\n| --- | --- |\n{rows}"
        )
    return "\n\n".join(parts)


def _page(sections: list[Section], ranks: Ranks | None, ranks_picture: Picture | None, left_out: list[str]) -> str:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {"cell": cell, "is_error": is_error, "seeds": seeds, "shown": shown}
    template = environment.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    runs = [run for section in sections for group in section.table.rows.values() for run in group]
    return template.render(
        sections=sections,
        ranks=ranks,
        ranks_picture=ranks_picture,
        left_out=[sentence.removeprefix("left out ") for sentence in left_out],
        runs=len(runs),
        methods=len({run["method"] for run in runs}),
        seeds_run=_spans(sorted(seeds(runs))),
        split=sections[0].table.split,
        caution=CAUTION,
        version=mmlab.__version__,
    )


def _spans(numbers: list[int]) -> str:
    """``0–4, 7`` for 0, 1, 2, 3, 4 and 7."""
    spans = [
        [number for _, number in group] for _, group in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
    ]
    return ", ".join(str(span[0]) if len(span) == 1 else f"{span[0]}–{span[-1]}" for span in spans)


def _slug(text: str) -> str:
    """A name for files and links."""
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")
