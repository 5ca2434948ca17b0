from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.twins import PREPARE, SMALLER

Command = Callable[..., str]
# So that its assertions say what they compared, like those of a test.
pytest.register_assert_rewrite("tests.runs.checks")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden-dir",
        type=Path,
        default=Path(__file__).parent / "golden",
        help="folder of reference numbers, <method>/<any name>.json, that tests/test_golden.py runs (default: ours)",
    )


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tests run side by side on few cores, and a forked process must not inherit a pool of threads."""
    import torch

    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).parent))  # own_methods


@pytest.fixture(autouse=True)
def _same_draws_in_every_run() -> None:
    """A test that draws without a seed of its own must not fail now and then."""
    import torch

    torch.manual_seed(0)


@pytest.fixture
def mmlab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the real command in this process, in an empty folder; checks its exit code."""
    from mmlab.cli.main import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")

    def run(line: str, code: int = 0) -> str:
        words = line.split()
        assert main(words) == code
        captured = capsys.readouterr()
        if code:
            assert "Traceback" not in captured.err
            return captured.err
        return captured.out

    return run


# Small enough for a second a fit: 96 samples, 6 steps an epoch.
KEYPAD = (
    "--data.dataset Keypad --data.dataset.train_size 96 --data.dataset.val_size 36 --data.dataset.test_size 37 "
    "--data.batch_size 16 --model.backbone.width 4 --trainer.accelerator cpu --trainer.enable_progress_bar false "
)


@pytest.fixture
def tiny() -> str:
    """Flags for the embedded data at its smallest."""
    return KEYPAD


@pytest.fixture(scope="session")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Flags for a data set's synthetic twin, prepared by the real command when it is first asked for."""
    from mmlab.cli.main import main

    made: dict[str, Path] = {}

    def flags(dataset: str) -> str:
        if dataset in PREPARE and dataset not in made:
            made[dataset] = tmp_path_factory.mktemp("twins") / dataset
            for number, options in enumerate(PREPARE[dataset]):
                made_once = "" if number else "--synthetic"
                assert main(f"prepare {dataset} --root {made[dataset]} {made_once} {options}".split()) == 0
        return SMALLER[dataset].format(root=made.get(dataset, ""))

    return flags
