from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmlab.compare.command import compare
from mmlab.compare.gather import gather
from mmlab.compare.results import read_results
from mmlab.compare.table import results_table
from mmlab.errors import UserError
from tests.compare.made import result, write


def table(results: list[dict], split: str, metric: str | None) -> str:
    return "\n\n".join(map(results_table, gather(results, split, metric)))


def test_mean_and_deviation_over_seeds(tmp_path: Path, capsys) -> None:
    write(
        tmp_path,
        *(result(seed=seed, acc=acc) for seed, acc in enumerate((0.5, 0.6, 0.7))),
        *(result("LateFusion", seed, acc) for seed, acc in enumerate((0.4, 0.4, 0.4))),
    )
    compare([str(tmp_path)])
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.splitlines() == [
        "**AVDigits (hard)**, test acc in %, 40 samples, mean ± standard deviation over seeds",
        "",
        "| method | seeds | fused | audio | image |",
        "| --- | --- | --- | --- | --- |",
        "| LateFusion | 3 | 40.0 ± 0.0 | 20.0 ± 0.0 | 25.0 ± 0.0 |",
        "| MNL | 3 | 60.0 ± 10.0 | 30.0 ± 5.0 | 25.0 ± 0.0 |",
    ]


def test_one_seed_has_no_deviation_and_an_absent_metric_is_a_dash() -> None:
    joint = result("JointTraining", test={"acc": 0.625})
    assert "| JointTraining | 1 | 62.5 | – | – |" in table([joint], "test", "acc")


def test_the_split_and_the_metric_can_be_chosen() -> None:
    assert "val acc in %" in table([result()], "val", "acc")
    assert "| MNL | 1 | 60.0 | – | – |" in table([result()], "val", "acc")
    losses = table([result()], "test", "loss")
    assert "test loss, 40 samples" in losses
    assert "| MNL | 1 | 1.500 | – | – |" in losses


def test_several_metrics_make_a_column_each() -> None:
    runs = [
        result("SelfMM", seed, test={"MAE": mae, "Corr": 0.5, "Has0_acc_2": 0.75, "MAE_text": 2.0})
        for seed, mae in enumerate((1.0, 1.5))
    ]
    lines = table([*runs, result("TFN", test={"MAE": 1.25})], "test", "MAE,Has0_acc_2").splitlines()
    assert lines[:6] == [
        "**AVDigits (hard)**, test, 40 samples, mean ± standard deviation over seeds",
        "",
        "| method | seeds | MAE | Has0_acc_2 in % |",
        "| --- | --- | --- | --- |",
        "| SelfMM | 2 | 1.250 ± 0.354 | 75.0 ± 0.0 |",
        "| TFN | 1 | 1.250 | – |",
    ]
    with pytest.raises(UserError, match="no result has the metric 'Mae' on test"):
        table(runs, "test", "MAE,Mae")


def test_what_is_a_share_is_in_per_cent_of_one_modality_too() -> None:
    own = table([result(test={"acc_audio": 0.25})], "test", "acc_audio")
    assert "test acc_audio in %, 40 samples" in own
    assert "| MNL | 1 | 25.0 | – | – |" in own
    others = result(test={"f1_image": 0.5, "miou": 0.125, "mae": 0.75})
    assert "| MNL | 1 | 50.0 |" in table([others], "test", "f1_image")
    assert "| MNL | 1 | 12.5 |" in table([others], "test", "miou")
    assert "| MNL | 1 | 0.750 |" in table([others], "test", "mae")


def test_each_data_set_has_a_table_of_its_own() -> None:
    other = result(dataset="Keypad", dataset_details={})
    unseen = result(dataset_details={"variant": "clean", "unseen_speaker": "theo"})
    twin = result(dataset="KineticsSounds", dataset_details={"synthetic": True})
    titles = [line for line in table([result(), other, unseen, twin], "test", "acc").splitlines() if "**" in line]
    assert [title.split("**")[1] for title in titles] == [
        "AVDigits (clean, theo unseen)",
        "AVDigits (hard)",
        "Keypad",
        "KineticsSounds (synthetic)",
    ]


def test_what_is_no_result_is_named_and_left_out(tmp_path: Path, capsys) -> None:
    lacking = result()
    del lacking["splits"]
    words = [result(test={"acc": "high"}), result(test=[0.5]), result(dataset_details="hard"), result(splits={})]
    write(tmp_path, result(), [1, 2], 3, {"accuracy": 1}, lacking, result(seed=1, splits={"test": 5}), *words)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "result.json").write_text(json.dumps(result())[:100])
    (tmp_path / "binary").mkdir()
    (tmp_path / "binary" / "result.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "running").mkdir()
    (tmp_path / "running" / "metrics.csv").write_text("stage,epoch,step\n")
    compare([str(tmp_path)])
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1].startswith("| MNL | 1 | 50.0 |")
    lines = sorted(captured.err.splitlines())
    named = [
        "binary/result.json",
        "cut/result.json",
        *(f"run{number}/result.json" for number in range(1, 10)),
        "running",
    ]
    assert [line.split(": ")[0] for line in lines] == [f"left out {tmp_path / name}" for name in named]
    assert "it has no splits" in lines[5]
    assert "not finished" in lines[-1]
    ends = ["numbers in test", "numbers in test", "dataset_details", "numbers in val, numbers in test"]
    assert [line.split("it has no ")[1] for line in lines[7:11]] == ends


def test_nothing_to_compare(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no result\.json below .*`mmlab fit` writes one"):
        read_results([tmp_path])
    with pytest.raises(UserError, match="nowhere is not a folder"):
        read_results([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="needs the folder of a run"):
        compare([])
    with pytest.raises(UserError, match=r"no result has the metric 'auc' on test; there are acc, acc_audio"):
        table([result()], "test", "auc")


def test_where_nothing_can_be_read_the_sentence_says_why(mmlab, tmp_path: Path) -> None:
    write(tmp_path / "runs", [1, 2], {"accuracy": 1})
    err = mmlab("compare runs", code=2)
    assert len(err.splitlines()) == 1
    assert "there is no result.json that can be read below runs, left out runs/run0/result.json: no result of a" in err
    assert "(and 1 more); `mmlab fit` writes one" in err


def test_a_clean_table_warns_of_nothing() -> None:
    assert table([result(), result("LateFusion")], "test", "acc").splitlines()[-1].startswith("| MNL")


def test_different_splits_are_said() -> None:
    other = {"samples": 40, "sha256": "1" * 64}
    different = result("LateFusion", splits={"train": other, "val": other, "test": other})
    assert "Not comparable: these runs saw different splits." in table([result(), different], "test", "acc")


def test_selection_on_the_test_split_is_said() -> None:
    assert "(protocol official)" in table([result(), result("LateFusion", protocol="official")], "test", "acc")


def test_uneven_and_repeated_seeds_are_said() -> None:
    assert "Not every method has the same seeds." in table([result(), result("LateFusion", seed=1)], "test", "acc")
    assert "several runs of one seed" in table([result(acc=0.2), result(acc=0.4)], "test", "acc")


def test_runs_of_one_method_with_other_options_are_rows_of_their_own(tmp_path: Path) -> None:
    for variant in ("official", "paper"):
        for seed in (0, 1):
            options = {"variant": variant, "lam": 0.7, "optimizer": {"init_args": {"lr": 0.001}}}
            content = result(seed=seed) | {"config": {"model": {"init_args": options}}}
            write(tmp_path / variant / str(seed), content)
    lines = table(read_results([tmp_path])[0], "test", "acc").splitlines()
    assert [line.split(" | ")[0] for line in lines[4:6]] == ["| MNL (variant official)", "| MNL (variant paper)"]


def test_a_methods_own_options_are_shown_alike_in_every_table() -> None:
    def fused(dataset: str, fusion: str, variant: str, batch_size: int) -> dict:
        own = {"fusion": fusion, "variant": variant}
        data = {"batch_size": batch_size, "dataset": {"init_args": {"variant": f"of {batch_size}"}}}
        return result(dataset=dataset, config={"model": {"init_args": own}, "data": data})

    first = [fused("A", "qmf", "paper", 32), fused("A", "qmf", "paper", 64)]
    whole = table([*first, fused("B", "pdf", "official", 16), result("LateFusion")], "test", "acc")
    assert [line.split(" | ")[0][2:] for line in whole.splitlines() if " | 1 | " in line] == [
        # The data's variant has its whole name beside the method's, which keeps its short one.
        "MNL (fusion qmf, variant paper, batch_size 32, data.dataset.init_args.variant of 32)",
        "MNL (fusion qmf, variant paper, batch_size 64, data.dataset.init_args.variant of 64)",
        "LateFusion",
        "MNL (fusion pdf, variant official)",
    ]


def test_runs_without_the_metric_tell_options_apart_too() -> None:
    fusions = [{"config": {"model": {"init_args": {"fusion": fusion}}}} for fusion in ("qmf", "pdf")]
    runs = [result(**fusions[0]), result(test={"mae": 0.5}, **fusions[1])]
    assert rows(runs) == ["MNL (fusion qmf)"]


def config(batch_size: int = 64, workers: int = 0, root: str | None = None, **trainer: object) -> dict:
    dataset = {"class_path": "mmlab.data.avdigits.AVDigits", "init_args": {"root": root, "variant": "hard"}}
    data = {"dataset": dataset, "batch_size": batch_size, "workers": workers}
    return {"patience": 8, "data": data, "trainer": {"max_epochs": 20, "precision": None, "logger": None} | trainer}


def rows(results: list[dict]) -> list[str]:
    return [line.split(" | ")[0][2:] for line in table(results, "test", "acc").splitlines()[4:] if line[:1] == "|"]


def test_runs_of_one_method_with_other_settings_are_rows_of_their_own() -> None:
    assert rows([result(config=config()), result(config=config(32))]) == ["MNL (batch_size 32)", "MNL (batch_size 64)"]
    longer = [result(config=config()), result(config=config(max_epochs=2) | {"patience": 0})]
    assert rows(longer) == ["MNL (max_epochs 2, patience 0)", "MNL (max_epochs 20, patience 8)"]
    variant = config()
    variant["data"]["dataset"]["init_args"]["variant"] = "clean"
    assert rows([result(config=config()), result(config=variant)]) == ["MNL (variant clean)", "MNL (variant hard)"]


def test_what_does_not_change_the_training_makes_no_row() -> None:
    same = [result(config=config()), result(seed=1, config=config(workers=4, root="elsewhere", logger=True))]
    assert rows(same) == ["MNL"]
    assert "Trained differently" not in table(same, "test", "acc")


def test_results_without_their_config_stay_one_row() -> None:
    older = [result(seed=0), result(seed=1), result(seed=2, config=None)]
    assert rows(older) == ["MNL"]
    assert rows([*older, result(config=config()), result(config=config(32))])[0] == "MNL"


def test_methods_that_were_trained_differently_are_named() -> None:
    lines = table([result(config=config()), result("LateFusion", config=config(max_epochs=2))], "test", "acc")
    assert "| MNL | 1 |" in lines
    assert lines.splitlines()[-1] == "Trained differently: max_epochs 2 / 20."


def test_runs_that_saw_a_part_of_their_data_are_named() -> None:
    whole, none = result(partial=[]), result("LateFusion")
    part = config() | {"trainer": {"overfit_batches": 2}}
    cut = [result(partial=["overfit_batches 2"], config=part), result("QMF", partial=["limit_train_batches 2"])]
    assert "Only a part" not in table([whole, none], "test", "acc")
    lines = table([result(partial=[], config=config(overfit_batches=0.0)), none, *cut], "test", "acc").splitlines()
    assert "Only a part of the data was used by: MNL (overfit_batches 2); QMF." in lines


def test_several_runs_of_one_seed_count_once() -> None:
    one = table([result(acc=0.2), result(acc=0.4)], "test", "acc")
    assert "| MNL | 1 | 30.0 | 15.0 | 25.0 |" in one
    assert "MNL has several runs of one seed (2 runs, 1 seed)" in one
    two = table([result(acc=0.2), result(acc=0.4), result(seed=1, acc=0.5)], "test", "acc")
    assert "| MNL | 2 | 40.0 ± 14.1 |" in two
    assert "MNL has several runs of one seed (3 runs, 2 seeds)" in two


def test_one_modality_alone_fuses_nothing() -> None:
    alone = result("Unimodal", test={"acc": 0.5, "acc_audio": 0.5, "loss": 1.5})
    assert "| Unimodal | 1 | – | 50.0 | – |" in table([alone], "test", "acc")
    assert "| Unimodal | 1 | 1.500 | – | – |" in table([alone], "test", "loss")


def test_the_help_is_for_people(capsys) -> None:
    with pytest.raises(SystemExit):
        compare(["--help"])
    assert "Raises" not in capsys.readouterr().out
