"""Whatever a person gets wrong ends in one sentence on standard error and the exit code 2."""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

MNL = "fit --model MNL --wandb.mode off {tiny} "


def assert_one_sentence(err: str, *words: str) -> None:
    assert len(err.splitlines()) == 1, err
    assert err.startswith("mmlab: error: ")
    for word in words:
        assert word in err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("fti", ["no command 'fti'", "did you mean 'fit'?"]),
        ("list method", ["no list of 'method'", "did you mean 'methods'?"]),
        ("compare", ["needs the folder of a run"]),
        ("compare nowhere", ["nowhere is not a folder"]),
        ("compare . --metrics acc", ["no option '--metrics'"]),
        ("compare . --split tset", ["'tset'"]),
        ("prepare Keypd", ["no data set 'Keypd'", "did you mean 'Keypad'?"]),
        ("prepare Keypad --train_sise 99", ["no option --train_sise", "did you mean 'train_size'?"]),
        ("prepare Keypad --workers many", ["--workers is 'many'", "must be int"]),
        ("prepare Keypad --synthetic", ["Keypad has no raw layout"]),
        ("prepare Manifest", ["--csv is missing"]),
        ("prepare KineticsSounds --root here", ["here/videos holds no clips"]),
        ("fit", ["--model is missing", "--model MNL"]),
        ("fit --model MNL --wandb.mode off", ["--data.dataset is missing", "--data.dataset Keypad"]),
        ("fit --config", ["--config needs a value"]),
        ("fit --resume", ["--resume needs a value"]),
        ("fit --config none.yaml", ["no file none.yaml", "mmlab list experiments"]),
        (MNL + "--trainer.max_epoch 3", ["no option --trainer.max_epoch ", "did you mean 'trainer.max_epochs'?"]),
        (MNL + "--trainer.max_epochs many", ["--trainer.max_epochs is 'many'", "must be int"]),
        (MNL + "--trainer.max_epochs 0", ["--trainer.max_epochs is 0", "1 or more"]),
        (MNL + "--trainer.accelerator tpux", ["'tpux'", "Available names"]),
        (MNL + "--trainer.precision bf16-true", ["bf16-true makes weights of another kind", "bf16-mixed"]),
        (MNL + "--trainer.precision 64", ["64-true makes weights of another kind"]),
        (MNL + "--trainer.limit_train_batches 2.5", ["2.5 for limit_train_batches"]),
        (MNL + "--trainer.callbacks+=EarlyStoping", ["'EarlyStoping'", "did you mean 'EarlyStopping'?"]),
        (MNL + "--data.batchsize 3", ["no option --data.batchsize", "did you mean 'data.batch_size'?"]),
        (MNL + "--data.batch_size 0", ["--data.batch_size is 0", "1 or more"]),
        (MNL + "--data.eval_batch_size 0", ["--data.eval_batch_size is 0", "1 or more"]),
        (MNL + "--data.workers -1", ["--data.workers is -1", "0 or more"]),
        (MNL + "--data.seed 3", ["--data.seed can't be set", "--seed"]),
        (MNL + "--data.dataset.train_sise 99", ["Keypad has no option 'train_sise'", "did you mean 'train_size'?"]),
        (MNL + "--data.dataset Keypd", ["no class 'Keypd'", "did you mean 'Keypad'?", "AVDigits"]),
        (MNL + "--seed -1", ["--seed is -1", "from 0"]),
        (MNL + "--patience -1", ["--patience is -1", "0 or more"]),
        (MNL + "--checkpoint_every -1", ["--checkpoint_every is -1", "0 or more"]),
        (MNL + "stray", ["'stray'"]),
        (MNL + "--model.spec {{}}", ["--model.spec can't be set", "follows from the data set"]),
        (MNL + "--model.lamb 3", ["MNL has no option 'lamb'", "did you mean 'lam'?"]),
        (MNL + "--model.lam high", ["--model.lam is 'high'", "must be float"]),
        (MNL + "--model.lam -1", ["lam -1", "0 or more"]),
        (MNL + "--model.variant oficial", ["--model.variant is 'oficial'", "'official', 'paper'"]),
        (MNL + "--model.backbone.nam x", ["has no option 'nam'", "did you mean 'name'?"]),
        (MNL + "--model.backbone resnet81", ["no backbone 'resnet81'", "did you mean 'resnet"]),
        (MNL + "--model.backbone nowhere.Net", ["nowhere.Net can't be imported", "No module named 'nowhere'"]),
        (
            MNL + "--model.backbones.audoi small_conv",
            ["backbones of MNL has no entry 'audoi'", "did you mean 'audio'?"],
        ),
        (MNL + "--model.backbones.depth small_conv", ["no modality 'depth'", "audio, image"]),
        (MNL + "--model.guidance_rule prior --model.prior_guide audoi", ["'audoi'", "did you mean 'audio'?"]),
        (MNL + "--model.optimizer SGDD", ["no class 'SGDD'", "did you mean 'SGD'?"]),
        (MNL + "--model.optimizer SGD --model.optimizer.lrr 1", ["SGD has no option 'lrr'", "did you mean 'lr'?"]),
        (MNL + "--model.scheduler StepLR", ["--model.scheduler.step_size is missing"]),
        ("fit --model.help Nope", ["--model.help: there is no class 'Nope'", "JointTraining"]),
        ("fit --data.dataset.help AVdigits", ["--data.dataset.help", "did you mean 'AVDigits'?", "Keypad"]),
        ("fit --model.lam 3 {tiny}", ["--model has options but no class", "--model MNL"]),
        ("fit --config .", ["--config . is a folder"]),
        ("fit --model my_module.py {tiny}", ["my_module.py is a file", "my_module.MyMethod"]),
        ("fit --model MNLL {tiny}", ["no class 'MNLL'", "did you mean 'MNL'?", "JointTraining"]),
        ("fit --model nowhere.Method {tiny}", ["no module 'nowhere'"]),
        ("fit --model own_methods.WithDropuot {tiny}", ["no class 'WithDropuot'", "did you mean 'WithDropout'?"]),
        ("fit --model Unimodal {tiny}", ["--model.modality is missing"]),
        ("fit --model Unimodal --model.modality audoi {tiny}", ["no modality 'audoi'", "did you mean 'audio'?"]),
        ("fit --model MNL --data.dataset KineticsSounds", ["is not prepared", "mmlab prepare KineticsSounds --root"]),
        ("fit --model MNL --data.dataset Manifest", ["--data.dataset.csv is missing"]),
        (
            "fit --model MNL --data.dataset Manifest --data.dataset.csv no.csv",
            ["no.csv can't be read", "check the path"],
        ),
        ("test", ["needs the run to work on", "mmlab test --run"]),
        ("test --run nowhere", ["nowhere is not a run", "config.yaml"]),
        ("predict --run .", [". is not a run", "config.yaml"]),
        ("fit --resume .", [". is not a run", "config.yaml"]),
    ],
)
def test_a_wrong_command_line(mmlab, tiny: str, line: str, words: list[str]) -> None:
    assert_one_sentence(mmlab(line.format(tiny=tiny), code=2), *words)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["own.yaml holds no options"]),
        ("- 1\n", ["own.yaml holds no options"]),
        ("model: [\n", ["own.yaml is not valid YAML"]),
        ("model: 3\n", ["--model is 3", "name of a class"]),
        ("modle: MNL\n", ["no option --modle", "did you mean 'model'?"]),
        ("model: MNLL\n", ["no class 'MNLL'", "did you mean 'MNL'?"]),
        ("model: MNL\ntrainer:\n  max_epoch: 3\n", ["trainer.max_epoch ", "did you mean 'trainer.max_epochs'?"]),
        ("model: MNL\ntrainer:\n  max_epochs: many\n", ["--trainer.max_epochs is 'many'", "must be int"]),
        ("model:\n  class_path: MNL\n  init_args:\n    lamb: 3\n", ["MNL has no option 'lamb'", "did you mean 'lam'?"]),
        ("model:\n  class_path: MNL\n  init_args:\n    lam: high\n", ["--model.lam is 'high'", "must be float"]),
        (
            "model:\n  class_path: MNL\n  init_args:\n    backbones:\n      audoi: small_conv\n",
            ["has no entry 'audoi'", "did you mean 'audio'?"],
        ),
        (
            "model:\n  class_path: MNL\n  init_args:\n    optimizer:\n      class_path: SGDD\n",
            ["no class 'SGDD'", "did you mean 'SGD'?"],
        ),
        ("model:\n  class_path: MNL\n  init_args:\n    spec: {}\n", ["sets model.init_args.spec", "take it out"]),
        ("model: MNL\ndata:\n  seed: 3\n", ["sets data.seed", "take it out"]),
        ("model: {lam: 1}\n", ["--model has options but no class", "class_path"]),
        ("model: MNL\nseed: 1\nmodel: LateFusion\n", ["line 3", "'model' is set twice"]),
        ("model:\n  class_path: MNL\n  init_args:\n    lam: 1\n    lam: 2\n", ["line 5", "'lam' is set twice"]),
    ],
)
def test_a_wrong_config_file(mmlab, text: str, words: list[str]) -> None:
    Path("own.yaml").write_text(text)
    assert_one_sentence(mmlab("fit --config own.yaml --data.dataset Keypad", code=2), "own.yaml", *words)


def test_a_config_file_that_is_not_text(mmlab) -> None:
    Path("picture.png").write_bytes(b"\x89PNG\xff")
    assert_one_sentence(mmlab("fit --config picture.png", code=2), "picture.png is not a text file")


METHOD = "from mmlab.methods.base import Method\n\n\n"
INIT = "    def __init__(self, {}) -> None:\n        pass\n"


@pytest.mark.parametrize("how", ["flag", "file"])
@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("syntax", METHOD + "class MyMethod(Method:\n    pass\n", ["line 4: "]),
        ("imports", METHOD + "\n\nimport nothere\n", ["line 6: No module named 'nothere'"]),
        ("attribute", "import math\n\nmath.nothere\n", ["line 3: ", "no attribute 'nothere'"]),
        ("value", "int('x')\n", ["line 1: ValueError", "'x'"]),
        ("plain", "class MyMethod:\n    pass\n", ["line 1: MyMethod is not a method", "mmlab.methods.base.Method"]),
        ("function", "def MyMethod(spec):\n    pass\n", ["is not a class"]),
        (
            "abstract",
            METHOD + "class MyMethod(Method):\n" + INIT.format("spec"),
            ["line 4", "lacks forward and losses"],
        ),
        (
            "argument",
            METHOD + "class MyMethod(Method):\n" + INIT.format("width") + "    forward = losses = print\n",
            ["line 4", "is 'width'", "must be `spec"],
        ),
    ],
)
def test_a_wrong_method_of_ones_own(mmlab, tiny: str, name: str, text: str, words: list[str], how: str) -> None:
    module = f"wrong_{name}_by_{how}"  # not the module that another case imported
    Path(f"{module}.py").write_text(text)
    Path("own.yaml").write_text(f"model:\n  class_path: {module}.MyMethod\n")
    line = f"fit --model {module}.MyMethod {tiny}" if how == "flag" else "fit --config own.yaml --data.dataset Keypad"
    assert_one_sentence(mmlab(line, code=2), module, *words)


def test_a_misspelt_config_file_is_guessed(mmlab) -> None:
    Path("mnl_keypad.yaml").write_text("model: MNL\n")
    assert_one_sentence(
        mmlab("fit --config mnl_keypda.yaml", code=2), "mnl_keypda.yaml (did you mean mnl_keypad.yaml?)"
    )


@pytest.mark.parametrize("dataset", ["AVDigits", "GRIDLetters"])
def test_absent_and_truncated_data(mmlab, monkeypatch: pytest.MonkeyPatch, dataset: str) -> None:
    monkeypatch.setenv("MMLAB_DATA", "nothing")
    fit = f"fit --model MNL --wandb.mode off --data.dataset {dataset}"
    assert_one_sentence(mmlab(fit, code=2), "There is no nothing/", "train.npz", "MMLAB_DATA")
    mmlab(f"prepare {dataset} --root twin --synthetic")
    file = Path("twin/train.npz")
    file.write_bytes(file.read_bytes()[:5000])
    err = mmlab(f"{fit} --data.dataset.root twin", code=2)
    assert_one_sentence(err, "twin/train.npz can't be read", "copy the file anew")
    assert_one_sentence(mmlab(f"prepare {dataset} --root twin --synthetic", code=2), "twin is not empty")


ROWS = "".join(f"s{n},{'test' if n > 7 else 'train'},{'cat' if n % 2 else 'dog'},tone.npy,\n" for n in range(10))


@pytest.mark.parametrize(
    ("table", "flags", "words"),
    [
        ("id,split,audio,image\n" + ROWS, "", ["has no column 'target'", "add it"]),
        ("id,split,target,audoi\n", "", ["unknown column 'audoi'", "did you mean 'audio'?"]),
        ("id,split,target,audio,image\n" + ROWS + "s1,test,cat,tone.npy,\n", "", ["line 12", "'s1' is used in line 3"]),
        ("id,split,target,audio,image\n" + ROWS + "t,tset,cat,tone.npy,\n", "", ["line 12", "did you mean 'test'?"]),
        ("id,split,target,audio,image\n" + ROWS + "t,test,cat,gone.npy,\n", "", ["line 12", "no file gone.npy"]),
        (
            "id,split,target,audio,image\n" + ROWS,
            "--data.dataset.classes [cat,dgo]",
            ["line 2", "'dog' is not among the classes", "did you mean 'dgo'?"],
        ),
    ],
    ids=["column missing", "column unknown", "id twice", "split unknown", "file missing", "label outside the classes"],
)
def test_a_wrong_manifest(mmlab, table: str, flags: str, words: list[str]) -> None:
    np.save("tone.npy", np.ones(4000, np.int16))
    Path("own.csv").write_text(table)
    line = f"fit --model MNL --wandb.mode off --data.dataset Manifest --data.dataset.csv own.csv {flags}"
    assert_one_sentence(mmlab(line, code=2), "own.csv", *words)


def test_an_unreadable_file_of_a_manifest(mmlab) -> None:
    np.save("tone.npy", np.ones(4000, np.int16))
    Path("broken.wav").write_bytes(b"RIFF and no more")
    Path("own.csv").write_text("id,split,target,audio\n" + ROWS.replace(",\n", "\n") + "t,test,cat,broken.wav\n")
    err = mmlab("prepare Manifest --csv own.csv", code=2)  # the progress bar is on standard error too
    assert_one_sentence(err.splitlines()[-1], "own.csv, line 12", "broken.wav", "replace the file")


class Hostile:
    """Unpickled without care, it would write a file."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("owned",)


KINDS = ["truncated", "empty", "hostile", "foreign", "absent", "text"]
KINDS += ["list"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_checkpoint(mmlab, finished: Path, kind: str) -> None:
    run = Path("run")
    shutil.copytree(finished, run)
    best = run / "checkpoints" / "best.ckpt"
    words = ["run/checkpoints/best.ckpt"]
    if kind == "truncated":
        best.write_bytes(best.read_bytes()[:3000])
    elif kind == "empty":
        best.write_bytes(b"")
    elif kind == "text":
        best.write_bytes(b"something else")
    elif kind == "list":
        torch.save([1, 2], best)
    elif kind == "hostile":
        torch.save({"state_dict": Hostile()}, best)
    elif kind == "foreign":
        torch.save({"state_dict": {"layer.weight": torch.zeros(3)}, "mmlab_method": "MNL"}, best)
        words.append("belongs to another model")
    else:
        best.unlink()
        words.append("there is no checkpoint")
    assert_one_sentence(mmlab("test --run run", code=2), *words)
    assert not Path("owned").exists()


@pytest.mark.parametrize("kind", ["truncated", "hostile", "other width", "result"])
def test_a_wrong_file_of_a_run_to_resume(mmlab, finished: Path, kind: str) -> None:
    shutil.copytree(finished, "run")
    last = Path("run/checkpoints/last.ckpt")
    if kind == "result":
        Path("run/result.json").write_text("{")
    else:
        Path("run/result.json").unlink()
        Path("run/checkpoints/finished.json").unlink()
    if kind == "truncated":
        last.write_bytes(last.read_bytes()[:3000])
    elif kind == "hostile":
        torch.save({"state_dict": Hostile()}, last)
    elif kind == "other width":
        saved = torch.load(last, weights_only=True)
        saved["state_dict"] = {name: tensor[:1] for name, tensor in saved["state_dict"].items() if tensor.dim()}
        torch.save(saved, last)
    assert_one_sentence(mmlab("fit --resume run", code=2), "run/")
    assert not Path("owned").exists()


def test_a_checkpoint_of_another_width(mmlab, finished: Path) -> None:
    err = mmlab(f"test --run {finished} --model.backbone.width 8", code=2)
    assert_one_sentence(err, "belongs to another model", "size mismatch")


def test_a_run_on_other_data(mmlab, finished: Path) -> None:
    for command in ("test", "validate", "predict", "test --corruption gaussian"):
        err = mmlab(f"{command} --run {finished} --data.dataset.train_size 97", code=2)
        assert_one_sentence(err, "other training samples", "fit anew")


def test_a_run_on_data_whose_classes_changed_places(mmlab, finished: Path) -> None:
    shutil.copytree(finished, "run")
    best = Path("run/checkpoints/best.ckpt")
    saved = torch.load(best, weights_only=True)
    saved["mmlab_data"]["classes"].reverse()
    torch.save(saved, best)
    assert_one_sentence(mmlab("predict --run run", code=2), "other classes", "fit anew")


def test_resuming_on_data_that_were_replaced(mmlab) -> None:
    mmlab("prepare AVDigits --root twin --synthetic")
    line = "--trainer.max_epochs 1 --model.backbone.width 4 --trainer.accelerator cpu --wandb.mode off"
    mmlab(f"fit --model MNL --data.dataset AVDigits --data.dataset.root twin --run_dir run {line}")
    for name in ("result.json", "checkpoints/finished.json"):
        Path("run", name).unlink()
    arrays = dict(np.load("twin/train.npz"))
    arrays["mnist_index"] = arrays["mnist_index"] + 1
    np.savez("twin/train.npz", **arrays)
    assert_one_sentence(mmlab("fit --resume run", code=2), "other training samples", "fit anew")


def test_predict_refuses_an_unknown_split_and_a_bad_place(mmlab, finished: Path) -> None:
    assert_one_sentence(mmlab(f"predict --run {finished} --split tset", code=2), "--split tset", "train, val, test")
    assert_one_sentence(mmlab(f"predict --run {finished} --spilt val", code=2), "did you mean 'split'?")
    Path("folder").mkdir()
    assert_one_sentence(mmlab(f"predict --run {finished} --out folder", code=2), "--out folder is a folder")
    Path("file").write_text("")
    assert_one_sentence(mmlab(f"predict --run {finished} --out file/table.csv", code=2), "file", "check the path")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--corruption gausian", ["--corruption gausian (did you mean 'gaussian'?)", "salt_and_pepper", "missing"]),
        ("--corruption", ["--corruption needs a value"]),
        ("--corruption missing --severity 11", ["the severity of missing is 11", "0 to 10"]),
        ("--corruption salt_and_pepper --severity 5,10.5", ["the severity of salt_and_pepper is 10.5", "0 to 10"]),
        ("--corruption gaussian --severity -1", ["the severity of gaussian is -1", "0 or more"]),
        ("--corruption gaussian --severity nan", ["the severity of gaussian is nan", "0 or more"]),
        ("--corruption gaussian --severity x", ["--severity has 'x'", "--severity 0,5,10"]),
        ("--corruption gaussian --severity 5,,10", ["--severity has ''", "--severity 0,5,10"]),
        ("--corruption gaussian --severity 5,10,5", ["--severity names 5 twice"]),
        ("--corruption gaussian --noise_seeds 0", ["--noise_seeds is 0", "1 or more"]),
        ("--corruption gaussian --noise_seeds 2.5", ["--noise_seeds has '2.5'", "--noise_seeds 5"]),
        ("--corruption blank_words", ["needs text with a blank token", "audio (audio), image (image)"]),
        ("--severity 5", ["--severity needs --corruption", "gaussian, salt_and_pepper, blank_words, missing"]),
        ("--noise_seeds 5", ["--noise_seeds needs --corruption"]),
        ("--input_radius maybe", ["--input_radius is 'maybe'", "true or false"]),
        ("--corruptoin gaussian", ["no option --corruptoin", "did you mean 'corruption'?"]),
    ],
)
def test_a_wrong_corruption(mmlab, finished: Path, flags: str, words: list[str]) -> None:
    assert_one_sentence(mmlab(f"test --run {finished} {flags}", code=2), *words)
    assert not list(finished.glob("corruption_*"))


@pytest.mark.parametrize("command", ["validate", "predict"])
def test_only_the_test_knows_corruptions(mmlab, finished: Path, command: str) -> None:
    err = mmlab(f"{command} --run {finished} --corruption gaussian", code=2)
    assert_one_sentence(err, "no option --corruption")


def test_a_folder_that_is_taken(mmlab, tiny: str, finished: Path) -> None:
    err = mmlab(f"fit --model MNL {tiny} --run_dir {finished}", code=2)
    assert_one_sentence(err, "holds a run already", f"--resume {finished}", "--run_dir")
    Path("file").write_text("")
    assert_one_sentence(mmlab(f"fit --model MNL {tiny} --run_dir file", code=2), "file", "check the path")


def test_an_option_that_the_trainer_refuses_leaves_no_folder_behind(mmlab, tiny: str) -> None:
    line = f"fit --model MNL {tiny} --wandb.mode off --run_dir run --trainer.max_epochs"
    assert_one_sentence(mmlab(f"{line} -7", code=2), "max_epochs")
    assert not Path("run").exists()
    mmlab(f"{line} 1 --trainer.fast_dev_run true")


def test_a_loss_that_is_not_a_number(mmlab, tiny: str) -> None:
    line = f"fit --model own_methods.WithDropout {tiny} --wandb.mode off --trainer.max_epochs 3 --run_dir run"
    err = mmlab(f"{line} --model.nan_at 8", code=2)
    assert_one_sentence(err, "at step 8 (epoch 2, samples train-", "gradient_clip_val")
    last = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    assert (last["global_step"], last["epoch"]) == (6, 0)
    assert all(tensor.isfinite().all() for tensor in last["state_dict"].values())
    assert not Path("run/result.json").exists()
    # The samples named are those of the batch at that step.
    order = np.random.default_rng((0, 1)).permutation(96)[2 * 16 : 3 * 16]
    named = err.split("samples ")[1].split(")")[0].removesuffix(", ...").split(", ")
    assert named == [f"train-{position:05d}" for position in order[:8]]


def test_retries_of_a_download_are_not_told() -> None:
    importlib.import_module("mmlab.backbones.timm")
    assert not logging.getLogger("huggingface_hub.utils._http").isEnabledFor(logging.WARNING)


@pytest.mark.slow
def test_the_installed_command_says_it_alike(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mmlab", "fit", "--model", "MNLL", "--data.dataset", "Keypad"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert_one_sentence(done.stderr, "did you mean 'MNL'?")
