from __future__ import annotations

from pathlib import Path

import pytest

from mmlab.compare.differences import check_baseline, differences, differences_table, find_baseline
from mmlab.compare.gather import gather
from mmlab.errors import UserError
from tests.compare.made import result, write


def runs(method: str, accs: list[float], first: int = 0, **changes: object) -> list[dict]:
    return [result(method, first + number, acc, **changes) for number, acc in enumerate(accs)]


def config(patience: int = 8, **own: object) -> dict:
    return {"config": {"patience": patience, "model": {"init_args": own}}}


def test_differences_are_paired_by_seed(mmlab, tmp_path: Path) -> None:
    base = runs("LateFusion", [0.5, 0.6, 0.7])
    # One more seed, which has no partner, and another order of the folders.
    write(tmp_path / "runs", *reversed(runs("MNL", [0.52, 0.61, 0.75, 0.1])), *base, *runs("QMF", [0.4, 0.5, 0.6]))
    out = mmlab("compare runs --baseline LateFusion")
    assert out.splitlines()[-8:-1] == [
        "**AVDigits (hard)**, test acc in %, fused: difference to LateFusion",
        "",
        "| method | seeds | difference | d | p | p corrected |",
        "| --- | --- | --- | --- | --- | --- |",
        # 2, 1 and 5: mean 8/3, standard deviation 2.082, t = 2.219 with two degrees of freedom.
        "| MNL | 3 | +2.7 ± 1.2 | +1.28 | 0.157 | 0.157 |",
        "| QMF | 3 | −10.0 ± 0.0 | – | – | – |",
        "",
    ]
    assert "All seeds share one split and its test samples" in out.splitlines()[-1]


def test_holm_counts_the_methods_that_were_tested() -> None:
    (table,) = gather(
        [
            *runs("LateFusion", [0.5, 0.6, 0.7]),
            *runs("MNL", [0.52, 0.61, 0.75]),
            *runs("PDF", [0.6, 0.65, 0.8]),
            *runs("QMF", [0.9], first=1),
        ],
        "test",
    )
    found = {row.label: row for row in differences(table, "LateFusion", table.columns[0]).rows}
    assert list(found) == ["MNL", "PDF", "QMF"]
    assert found["QMF"].paired.seeds == 1
    assert found["QMF"].corrected is None
    assert found["PDF"].corrected == pytest.approx(2 * found["PDF"].paired.p)
    assert found["MNL"].corrected == max(found["MNL"].paired.p, found["PDF"].corrected)


def test_rows_without_a_partner_are_named() -> None:
    other = {"samples": 40, "sha256": "1" * 64}
    (table,) = gather(
        [
            *runs("LateFusion", [0.5, 0.6]),
            *runs("MNL", [0.5, 0.6], splits={"train": other, "val": other, "test": other}),
            *runs("PDF", [0.5, 0.6], first=5),
        ],
        "test",
    )
    found = differences(table, "LateFusion", table.columns[0])
    assert found.rows == ()
    assert found.left_out == (
        "MNL saw other test samples than LateFusion: not compared.",
        "PDF has no seed in common with LateFusion: not compared.",
    )
    assert "MNL saw other test samples" in differences_table(table, "LateFusion", found)


def test_a_number_that_is_none_is_no_partner() -> None:
    nan = [result("MNL", seed, test={"acc": float("nan") if seed else 0.7}) for seed in (0, 1)]
    (table,) = gather([*runs("LateFusion", [0.5, 0.6]), *nan], "test")
    (row,) = differences(table, "LateFusion", table.columns[0]).rows
    assert (row.paired.seeds, row.paired.mean) == (1, pytest.approx(20.0))


def test_one_modality_alone_is_compared_in_its_column_only() -> None:
    alone = [result("Unimodal", seed, test={"acc": acc, "acc_audio": acc}) for seed, acc in enumerate((0.5, 0.7))]
    (table,) = gather([*runs("LateFusion", [0.5, 0.6]), *alone], "test")
    fused, audio, image = (differences(table, "LateFusion", column) for column in table.columns)
    assert fused.rows == image.rows == ()
    assert audio.rows[0].paired.mean == pytest.approx((0.25 + 0.4) / 2 * 100)


def test_the_usual_baselines() -> None:
    (table,) = gather([result("MNL"), result("JointTraining"), result("ModalityDropout")], "test")
    assert find_baseline(table, None) == "ModalityDropout"
    (table,) = gather([result("MNL"), result("QMF")], "test")
    assert find_baseline(table, None) is None
    assert find_baseline(table, "QMF") == "QMF"


def test_of_rows_trained_differently_the_baseline_is_the_usual_one() -> None:
    (table,) = gather(
        [
            result("LateFusion", **config(0)),
            result("LateFusion", **config(8)),
            result("MNL", **config(8)),
            result("QMF", **config(8)),
            result("UDML", **config(0)),
        ],
        "test",
    )
    assert list(table.rows)[:2] == ["LateFusion (patience 0)", "LateFusion (patience 8)"]
    assert find_baseline(table, None) == find_baseline(table, "LateFusion") == "LateFusion (patience 8)"
    assert find_baseline(table, "LateFusion (patience 0)") == "LateFusion (patience 0)"


def test_mistaken_baselines_end_in_a_sentence(mmlab, tmp_path: Path) -> None:
    write(
        tmp_path / "runs",
        result("LateFusion"),
        *(result("MNL", **config(fusion=fusion)) for fusion in ("pdf", "qmf")),
    )
    err = mmlab("compare runs --baseline LateFusoin", code=2)
    assert "--baseline is 'LateFusoin', but no table has that row (did you mean 'LateFusion'?); there are" in err
    err = mmlab("compare runs --baseline MNL", code=2)
    assert "could be several rows of AVDigits (hard); say which: MNL (fusion pdf); MNL (fusion qmf)." in err
    tables = gather([result("MNL"), result("QMF", dataset="B")], "test")
    check_baseline(tables, "QMF")
    assert [find_baseline(table, "QMF") for table in tables] == [None, "QMF"]
    with pytest.raises(UserError, match="no table has that row"):
        check_baseline(tables, "PDF")
