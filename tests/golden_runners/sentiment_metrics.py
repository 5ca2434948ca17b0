"""What reference numbers of sentiment metrics mean: predicted and true scores, and what MMSA makes of them.

Whose cuts a case takes shows in its outputs, and where these are common to both, in its name. A file without anything
else may lie in a folder of its own; the runner of Self-MI calls this one for its cases.
"""

from typing import Any, Literal

import torch

from mmlab.metrics.sentiment import SentimentMetrics

MOSI = {"Has0_acc_2", "Has0_F1_score", "Non0_acc_2", "Non0_F1_score", "Mult_acc_7"}
SIMS = {"Mult_acc_2", "Mult_acc_3", "F1_score"}
EITHER = {"Mult_acc_5", "MAE", "Corr"}


def has_metrics(document: dict[str, Any], case: str) -> bool:
    """Whether a case is one of sentiment metrics."""
    outputs = part(document["outputs"], case).keys()
    return bool(outputs) and outputs <= MOSI | SIMS | EITHER


def run(document: dict[str, Any], case: str) -> dict[str, Any]:
    inputs = part(document["inputs"], case)
    metrics = SentimentMetrics(convention(part(document["outputs"], case).keys(), case))
    prediction, truth = (torch.tensor(inputs[name], dtype=torch.float64) for name in ("pred", "truth"))
    for own, true in zip(prediction.split(5), truth.split(5), strict=True):
        metrics.update(own, true)
    return dict(metrics.compute())


def convention(outputs: Any, case: str) -> Literal["mosi", "sims"]:
    names: tuple[tuple[Literal["mosi", "sims"], set[str]], ...] = (("mosi", MOSI), ("sims", SIMS))
    found = [name for name, own in names if own & set(outputs)] or [name for name, _ in names if name in case.lower()]
    if len(found) != 1:
        raise ValueError(f"{case} has the outputs {', '.join(outputs)}, which are not those of one convention")
    return found[0]


def part(section: dict[str, Any], case: str) -> dict[str, Any]:
    nested = {f"{case}/{key}": value for key, value in section[case].items()} if case in section else {}
    prefix = f"{case}/"
    return {key.removeprefix(prefix): value for key, value in {**section, **nested}.items() if key.startswith(prefix)}
