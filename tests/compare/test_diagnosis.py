from __future__ import annotations

import pytest

from mmlab.compare.command import compare
from mmlab.errors import UserError
from tests.compare.made import diagnosis, write


def printed(capsys, words: list[str]) -> tuple[list[str], str]:
    compare(words)
    captured = capsys.readouterr()
    return captured.out.splitlines(), captured.err


def test_a_row_for_each_method_over_its_seeds(tmp_path, capsys) -> None:
    runs = [diagnosis(seed=0, own=0.5), diagnosis(seed=1, own=0.7), diagnosis("JointTraining", own_head={}, ece={})]
    write(tmp_path, *runs, name="diagnosis.json")
    lines, _ = printed(capsys, [str(tmp_path), "--diagnosis"])
    assert lines[0].startswith("**AVDigits (hard)**, test acc in %, 40 samples")
    titles = "own head audio | own head image | probe audio | Shapley audio | Shapley image | ECE"
    assert lines[2] == f"| method | seeds | {titles} |"
    assert lines[4:6] == [
        "| JointTraining | 1 | – | – | 60.0 | 30.0 | -5.0 | – |",
        "| MNL | 2 | 60.0 ± 14.1 | 25.0 ± 0.0 | 70.0 ± 14.1 | 30.0 ± 0.0 | -5.0 ± 0.0 | 0.125 ± 0.000 |",
    ]
    assert "Not every method has the same seeds." in lines


def test_numbers_have_no_calibration(tmp_path, capsys) -> None:
    write(tmp_path, diagnosis(metric="MAE", value="-MAE", ece={}), name="diagnosis.json")
    lines, _ = printed(capsys, [str(tmp_path), "--diagnosis"])
    assert "by the -MAE of all subsets" in lines[0]
    assert "ECE" not in lines[2]
    assert lines[4] == "| MNL | 1 | 0.500 | 0.250 | 0.600 | 0.300 | -0.050 |"


def test_what_is_left_out_is_named(tmp_path, capsys) -> None:
    broken = diagnosis(seed=2, shapley={"audio": "much"})
    foreign = {"split": "test", "hello": 1}
    unclear = diagnosis(dataset_details=["hard"])
    write(tmp_path, diagnosis(), diagnosis(seed=1, split="val"), broken, foreign, [1], unclear, name="diagnosis.json")
    (tmp_path / "run0" / "metrics.csv").write_text("stage,epoch,step\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "metrics.csv").write_text("stage,epoch,step\n")
    lines, told = printed(capsys, [str(tmp_path), "--diagnosis"])
    assert lines[4].startswith("| MNL | 1 |")
    assert f"left out {tmp_path / 'run1' / 'diagnosis.json'}: of the val split" in told
    assert f"left out {tmp_path / 'run2' / 'diagnosis.json'}: no result of a run, it has no shapley" in told
    assert "run3" in told
    assert "run4" in told
    assert f"left out {tmp_path / 'run5' / 'diagnosis.json'}: no result of a run, it has no dataset_details" in told
    assert f"left out {tmp_path / 'other'}: not diagnosed, it has no diagnosis.json" in told
    lines, _ = printed(capsys, [str(tmp_path), "--diagnosis", "--split", "val"])
    assert ", val acc in %" in lines[0]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "there is no diagnosis.json of the test split below"),
        (["--metric", "f1"], "leave out --metric"),
        (["--baseline", "MNL"], "leave out --baseline"),
        (["--out", "page"], "leave out --out"),
        (["--robustness"], "--robustness and --diagnosis are tables of their own: give one at a time"),
        (["--corruption", "gaussian"], "--corruption and --diagnosis are tables"),
    ],
)
def test_mistakes(tmp_path, words, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        compare([str(tmp_path), "--diagnosis", *words])
