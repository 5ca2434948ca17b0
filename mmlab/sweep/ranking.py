"""Which setting is best, on validation: never is a test metric read here."""

from __future__ import annotations

import csv
import io
import math
import shlex
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from mmlab.compare.results import Result, dataset
from mmlab.compare.rows import Spread, cell, heading, is_error, scale, spread
from mmlab.errors import UserError
from mmlab.runs.folder import read_json, write_text
from mmlab.sweep.plan import Plan, Run, config_words, run_folder, short_names
from mmlab.sweep.settings import Setting

TABLE = "sweep.csv"


@dataclass(frozen=True)
class Row:
    """One setting of one config on one data set.

    Attributes:
        runs: of the setting that are finished, one for each seed.
        seeds: how many there are to be.
        values: the selecting metric on validation by seed.
    """

    runs: list[Run]
    seeds: int
    values: dict[int, float]

    @property
    def config(self) -> str | None:
        """The name of the config file."""
        return self.runs[0].config

    @property
    def setting(self) -> Setting:
        """What was searched."""
        return self.runs[0].setting

    @property
    def spread(self) -> Spread:
        """Mean and deviation over seeds."""
        found = spread(self.values.items())
        assert found is not None
        return found


@dataclass(frozen=True)
class Ranking:
    """The settings on one data set whose checkpoints one metric selected, the best first.

    Attributes:
        dataset: with its variant.
        metric: the selecting one, without ``val/``.
        rows: complete ones first: a mean over fewer seeds is not comparable.
        splits: how many different validation splits the runs saw.
    """

    dataset: str
    metric: str
    rows: list[Row]
    splits: int

    def place(self, row: Row) -> int:
        """A row's rank, from 1; rows with the same mean share theirs."""
        return 1 + sum(_place(other, self.metric) < _place(row, self.metric) for other in self.rows)

    def cell(self, row: Row) -> str:
        """A row's mean and deviation over seeds, in per cent where the metric is shown so."""
        factor = scale(self.metric)
        return cell(spread((seed, factor * value) for seed, value in row.values.items()), self.metric)


def selecting(file: Path) -> tuple[str, float]:
    """The metric that selected a run's checkpoint, and its value on validation.

    Raises:
        UserError: if result.json is damaged, or the run selected on the test split.
    """
    return _selected(read_json(file), file)


def rank(folder: Path, plan: Plan) -> tuple[list[Ranking], list[str]]:
    """Ranks what is finished of a sweep.

    Returns:
        One ranking for each data set and selecting metric; a sentence on each finished run that can't be ranked.
    """
    left_out: list[str] = []
    planned: dict[str, int] = defaultdict(int)
    found: dict[tuple[str, str], dict[str, list[tuple[Run, float, str]]]] = defaultdict(lambda: defaultdict(list))
    for run in plan.runs:
        setting = run.name.rpartition("/")[0]
        planned[setting] += 1
        file = run_folder(folder, run).result
        if not file.is_file():
            continue
        try:
            result = read_json(file)
            metric, value = _selected(result, file)
            split = str(result["splits"]["val"]["sha256"])
            found[dataset(result), metric][setting].append((run, value, split))
        except (UserError, KeyError, TypeError) as error:
            reason = error if isinstance(error, UserError) else f"{file} is no result of a run"
            left_out.append(f"left out {run.name}: {reason}")
    rankings = []
    for (name, metric), settings in found.items():
        rows = [
            Row([run for run, _, _ in runs], planned[setting], {run.seed: value for run, value, _ in runs})
            for setting, runs in settings.items()
        ]
        splits = {split for runs in settings.values() for _, _, split in runs}
        rankings.append(Ranking(name, metric, sorted(rows, key=lambda row: _place(row, metric)), len(splits)))
    return rankings, left_out


def ranking_table(ranking: Ranking) -> str:
    """A table in Markdown, with what to beware of below it."""
    keys = list(dict.fromkeys(key for row in ranking.rows for key in row.setting))
    shown = short_names(keys)
    configs = len({row.config for row in ranking.rows}) > 1
    head = ["rank", *(["config"] if configs else []), *shown.values(), heading(ranking.metric), "seeds"]
    lines = [head, ["---"] * len(head)]
    for row in ranking.rows:
        seeds = f"{len(row.values)}" + (f" of {row.seeds}" if len(row.values) < row.seeds else "")
        config = [row.config or ""] if configs else []
        setting = [row.setting.get(key, "") for key in keys]
        lines.append([str(ranking.place(row)), *config, *setting, ranking.cell(row), seeds])
    several = any(row.spread.deviation is not None for row in ranking.rows)
    means = ", mean ± standard deviation over seeds" if several else ""
    text = [f"**{ranking.dataset}**, validation{means}", "", *("| " + " | ".join(line) + " |" for line in lines)]
    if ranking.splits > 1:
        text += ["", "Not comparable: these runs saw different validation splits."]
    if any(len(row.values) < row.seeds for row in ranking.rows):
        text += ["", "Settings that lack seeds stand last."]
    return "\n".join(text)


def best_of_each(folder: Path, ranking: Ranking) -> str:
    """The best setting of each config, and the command that runs it."""
    lines = []
    for config in dict.fromkeys(row.config for row in ranking.rows):
        best = next(row for row in ranking.rows if row.config == config)
        setting = ", ".join(f"{key} {value}" for key, value in best.setting.items())
        name = " with ".join(part for part in (config, setting) if part) or best.runs[0].name
        unit = " %" if scale(ranking.metric) == 100 else ""
        ties = sum(row.config == config and ranking.place(row) == ranking.place(best) for row in ranking.rows) - 1
        tied = f", and {ties} more with the same" if ties else ""
        lines.append(f"best on validation: {name} (val {ranking.metric} {ranking.cell(best)}{unit}){tied}")
        words = [*config_words(folder, best.runs[0]), "--seed", str(best.runs[0].seed)]
        lines.append(f"  run it:  mmlab fit {shlex.join(words)}")
        lines.append(f"  test it: mmlab test --run {shlex.quote(str(run_folder(folder, best.runs[0]).path))}")
    return "\n".join(lines)


def write_table(folder: Path, rankings: list[Ranking]) -> Path:
    """Writes all rankings to sweep.csv: one row a setting, numbers as result.json has them (shares of 1)."""
    keys = list(dict.fromkeys(key for ranking in rankings for row in ranking.rows for key in row.setting))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["dataset", "metric", "rank", "config", *keys, "mean", "std", "seeds", "planned_seeds", "folder"])
    for ranking in rankings:
        for row in ranking.rows:
            mean, deviation = row.spread
            setting = [row.setting.get(key, "") for key in keys]
            writer.writerow(
                [ranking.dataset, f"val/{ranking.metric}", ranking.place(row), row.config or "", *setting, mean,
                 "" if deviation is None else deviation, len(row.values), row.seeds,
                 run_folder(folder, row.runs[0]).path.parent]
            )  # fmt: skip
    write_text(folder / TABLE, text.getvalue())
    return folder / TABLE


def _selected(result: Result, file: Path) -> tuple[str, float]:
    if result.get("selected_on") != "validation":
        raise UserError(f"{file} selected its checkpoint on the test split (protocol official), which ranks nothing.")
    metric = str(result.get("monitor", "")).removeprefix("val/")
    value = (result.get("val") or {}).get(metric)
    if not isinstance(value, int | float):
        raise UserError(f"{file} has no validation metric {metric!r}.")
    return metric, float(value)


def _place(row: Row, metric: str) -> tuple[bool, bool, float]:
    mean = row.spread.mean
    return len(row.values) < row.seeds, math.isnan(mean), mean if is_error(metric) else -mean
