"""``mmlab compare``: results of runs to tables and a report, without importing torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from mmlab.compare.diagnosis import diagnosis_sheets
from mmlab.compare.gather import Table, gather
from mmlab.compare.grids import curves_of, grid_sheets
from mmlab.compare.results import Result, corruptions, dataset, read_diagnoses, read_grids, read_results
from mmlab.compare.robustness import Robustness, robustness, robustness_table
from mmlab.compare.table import results_table
from mmlab.errors import UserError


def compare(words: list[str]) -> None:
    """Prints the tables of the runs below the folders named, and writes the report if it is asked for.

    Raises:
        UserError: for a wrong option, a folder that isn't there, or where there is no finished run.
    """
    options = _options(words)
    if options.corruption:
        _compare_robustness(options)
        return
    if options.robustness:
        _compare_grids(options)
        return
    if options.diagnosis:
        _compare_diagnoses(options)
        return
    if options.out:
        from mmlab.compare.report import check_folder, write_report  # pictures and pages cost a second

        check_folder(options.out)
    results, left_out = read_results(options.folders)
    _name(left_out)
    tables = gather(results, options.split, options.metric)
    print("\n\n".join(map(results_table, tables)))
    if options.baseline:
        _compare_with(tables, options.baseline)
    if options.out:
        grids, without_grid = _below(options.folders, "robustness.json", read_grids)
        diagnoses, undiagnosed = _below(
            options.folders, "diagnosis.json", lambda folders: read_diagnoses(folders, options.split)
        )
        tests, not_tested = _all_robustness(options.folders, grids, options.metric)
        sheets = [*grid_sheets(grids, results), *diagnosis_sheets(diagnoses, results)]
        left_out += [*not_tested, *without_grid, *undiagnosed]
        page = write_report(tables, tests, sheets, options.baseline, left_out, options.out)
        print(f"\nreport: {page}")


def _options(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="mmlab compare",
        exit_on_error=False,
        description="Prints the table of the runs below some folders, and writes a report.",
    )
    parser.add_argument("folders", nargs="*", type=Path, metavar="DIR", help="searched for the results of runs")
    parser.add_argument(
        "--metric",
        help="acc, f1, mae, acc_audio ...; the one that selected the checkpoints unless given; several (MAE,Corr) make "
        "a column each",
    )
    parser.add_argument("--split", default="test", choices=["val", "test"])
    parser.add_argument(
        "--baseline",
        metavar="METHOD",
        help="a row's label or method: prints the differences to it, paired by seed; in a report it is late fusion, "
        "modality dropout or joint training unless given",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="writes a report: index.html, the tables in Markdown, LaTeX and CSV, and pictures",
    )
    parser.add_argument(
        "--corruption",
        metavar="NAME",
        help="gaussian ...: a table over the severities that `mmlab test --corruption NAME` tested",
    )
    parser.add_argument(
        "--robustness",
        action="store_true",
        help="a table of the areas under the curves that `mmlab robustness` measured",
    )
    parser.add_argument(
        "--diagnosis",
        action="store_true",
        help="a table of what `mmlab diagnose` found of each modality",
    )
    parser.add_argument("--curves", type=Path, metavar="FILE.png", help="draws that table; needs --corruption")
    try:
        options, unknown = parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise UserError(f"mmlab compare: {error}; usage: mmlab compare DIR [DIR ...] [--metric acc].") from None
    if not options.folders:
        raise UserError("mmlab compare needs the folder of a run, or one that holds runs: mmlab compare runs/")
    if unknown:
        raise UserError(
            f"mmlab compare has no option {unknown[0]!r}; it has --metric, --split, --baseline, --out, --corruption, "
            "--robustness, --diagnosis and --curves."
        )
    if options.corruption is None and options.curves:
        raise UserError("--curves draws a metric over severities: say of which corruption, --corruption gaussian.")
    tables = [name for name in ("corruption", "robustness", "diagnosis") if getattr(options, name)]
    if len(tables) > 1:
        raise UserError(f"--{' and --'.join(tables)} are tables of their own: give one at a time.")
    return options


def _compare_robustness(options: argparse.Namespace) -> None:
    if options.out:
        raise UserError("--out writes a report with every corruption there is; leave out --corruption.")
    if options.baseline:
        raise UserError("--baseline compares tests without corruption; leave out --corruption or --baseline.")
    if options.metric and "," in options.metric:
        raise UserError(f"--metric is {options.metric}: under a corruption, give one metric.")
    if options.split != "test":
        raise UserError(f"only the test split is ever corrupted; leave out --split {options.split}.")
    if options.curves and options.curves.suffix.lower() != ".png":
        raise UserError(f"--curves is {options.curves}, but the picture is a PNG: name a file that ends in .png.")
    results, left_out = read_results(options.folders, options.corruption)
    _name(left_out)
    found = robustness(results, options.metric)
    print("\n\n".join(map(robustness_table, found)))
    if options.curves:
        from mmlab.compare.curves import draw_robustness

        draw_robustness(found, options.curves)
        print(f"\ncurves: {options.curves}")


def _compare_grids(options: argparse.Namespace) -> None:
    _refuse_others(options, "--robustness prints one table a data set, of the selecting metric")
    if options.split != "test":
        raise UserError(f"only the test split is ever corrupted; leave out --split {options.split}.")
    results, left_out = read_grids(options.folders)
    _name(left_out)
    print("\n\n".join(sheet.markdown() for sheet in grid_sheets(results, results)))


def _compare_diagnoses(options: argparse.Namespace) -> None:
    _refuse_others(options, "--diagnosis prints one table a data set and nothing else")
    results, left_out = read_diagnoses(options.folders, options.split)
    _name(left_out)
    print("\n\n".join(sheet.markdown() for sheet in diagnosis_sheets(results, results)))


def _refuse_others(options: argparse.Namespace, why: str) -> None:
    given = {"--metric": options.metric, "--baseline": options.baseline, "--out": options.out}
    for flag, value in given.items():
        if value:
            raise UserError(f"{why}; leave out {flag}.")


def _compare_with(tables: list[Table], baseline: str) -> None:
    from mmlab.compare.differences import check_baseline, differences, differences_table, find_baseline

    check_baseline(tables, baseline)
    for table in tables:
        row = find_baseline(table, baseline)
        if row is not None:
            print("\n" + differences_table(table, row, differences(table, row, table.decisive())))


def _below(
    folders: list[Path], name: str, read: Callable[[list[Path]], tuple[list[Result], list[str]]]
) -> tuple[list[Result], list[str]]:
    """What the files of a name hold that not every run has, and sentences on those that can't be read."""
    if not any(any(folder.rglob(name)) for folder in folders):
        return [], []
    try:
        results, unread = read(folders)
    except UserError as error:
        return [], [str(error)]
    return results, [sentence for sentence in unread if not sentence.endswith(f"it has no {name}")]


def _all_robustness(folders: list[Path], grids: list[Result], metric: str | None) -> tuple[list[Robustness], list[str]]:
    """The tests under every corruption there is, and sentences on what can't be shown of them.

    A corruption that ``mmlab test`` tested on a data set is taken from there, any other from the grids.
    """
    found: list[Robustness] = []
    left_out = []
    for name in corruptions(folders):
        try:
            results, unread = read_results(folders, name)
            found += robustness(results, metric.split(",")[0] if metric else None)
        except UserError as error:
            left_out.append(str(error))
        else:
            left_out += [sentence for sentence in unread if "not tested under" not in sentence]
    tested = {(each.dataset, each.corruption) for each in found}
    for name in dict.fromkeys(corruption for grid in grids for corruption in grid["auc"]):
        fresh = [grid for grid in curves_of(grids, name) if (dataset(grid), name) not in tested]
        found += robustness(fresh, metric.split(",")[0] if metric else None) if fresh else []
    return found, left_out


def _name(left_out: list[str]) -> None:
    for sentence in left_out:
        print(sentence, file=sys.stderr)
