from __future__ import annotations

from pathlib import Path

import pytest

from mmlab.cli.main import main

FIT = (
    "fit --model MNL --data.dataset Keypad --data.dataset.train_size 96 --data.dataset.val_size 36 "
    "--data.dataset.test_size 37 --data.batch_size 16 --model.backbone.width 4 --trainer.accelerator cpu "
    "--trainer.enable_progress_bar false --trainer.max_epochs 2 --wandb.mode off"
)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs, which the tests only read."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert main([*FIT.split(), "--run_dir", str(folder)]) == 0
    return folder
