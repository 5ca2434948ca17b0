"""Runs every case of every file of reference numbers in --golden-dir.

A file ``<method>/<any name>.json`` has ``inputs`` and ``outputs``, whose keys are ``<case>/<tensor>``, or entries
``<tensor>`` within an entry ``<case>``. What a method's files mean is in ``golden_runners/<method>.py``: its
``run(document, case)`` returns the outputs of a case by tensor name. A file or a case that nothing here can run is a
failure, not a skip.
"""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

RUNNERS = Path(__file__).parent / "golden_runners"
TOLERANCE = 1e-6


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "golden_case" in metafunc.fixturenames:
        folder = metafunc.config.getoption("--golden-dir")
        pairs = [(file, case) for file in sorted(folder.rglob("*.json")) for case in cases_of(file)]
        ids = [f"{file.relative_to(folder).with_suffix('')}-{case or 'unreadable'}" for file, case in pairs]
        metafunc.parametrize(("golden_file", "golden_case"), pairs, ids=ids)


def cases_of(file: Path) -> list[str]:
    """The cases in the file's order; one without a name for a file without any, so that its test fails."""
    try:
        document = json.loads(file.read_text())
        keys = [*document["inputs"], *document["outputs"]]
    except (ValueError, KeyError, TypeError):
        return [""]
    return list(dict.fromkeys(key.partition("/")[0] for key in keys)) or [""]


def runner_of(method: str) -> ModuleType:
    path = RUNNERS / f"{method}.py"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in RUNNERS.glob("*.py")))
        pytest.fail(f"no runner for the folder {method!r}: there is none but {known}; write {path}")
    spec = importlib.util.spec_from_file_location(f"golden_runner_{method}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def part(document: dict[str, Any], section: str, case: str) -> dict[str, Any]:
    prefix = f"{case}/"
    own = flat(document[section])
    return {key.removeprefix(prefix): value for key, value in own.items() if key.startswith(prefix)}


def flat(section: dict[str, Any]) -> dict[str, Any]:
    """Entries within entries under names that are joined by slashes."""
    every: dict[str, Any] = {}
    for key, value in section.items():
        inner = flat(value) if isinstance(value, dict) else {"": value}
        every |= {f"{key}/{name}".rstrip("/"): each for name, each in inner.items()}
    return every


def assert_same(name: str, actual: Any, expected: Any) -> None:
    if isinstance(expected, str) or (isinstance(expected, list) and expected and isinstance(expected[0], str)):
        assert actual == expected, f"{name} is {actual!r}, not {expected!r}"
        return
    actual, expected = torch.as_tensor(actual).detach(), torch.tensor(expected)
    assert actual.shape == expected.shape, f"{name} has the shape {tuple(actual.shape)}, not {tuple(expected.shape)}"
    if not expected.is_floating_point() and not actual.is_floating_point():
        assert actual.tolist() == expected.tolist(), f"{name} is {actual.tolist()}, not {expected.tolist()}"
        return
    off = (actual.double() - expected.double()).abs()
    # Written this way round, a NaN fails.
    assert bool((off <= TOLERANCE).all()), f"{name} is off by up to {off.max().item():.3g}"


def test_there_is_something_to_run(pytestconfig: pytest.Config) -> None:
    folder = pytestconfig.getoption("--golden-dir")
    assert list(folder.rglob("*.json")), f"{folder} has no reference numbers, <method>/<any name>.json"


def test_golden(golden_file: Path, golden_case: str, pytestconfig: pytest.Config) -> None:
    folder = pytestconfig.getoption("--golden-dir")
    assert golden_file.parent.parent == folder, f"{golden_file} is not <method>/<any name>.json under {folder}"
    assert golden_case, f"{golden_file} is no JSON with inputs and outputs named <case>/<tensor>"
    document = json.loads(golden_file.read_text())
    expected = part(document, "outputs", golden_case)
    assert expected, f"the case {golden_case} of {golden_file} has no outputs"

    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        actual = runner_of(golden_file.parent.name).run(document, golden_case)
        missing = sorted(expected.keys() - actual.keys())
        assert not missing, f"the runner of {golden_file.parent.name} doesn't know the outputs {', '.join(missing)}"
        for name, value in expected.items():
            assert_same(name, actual[name], value)
    finally:
        torch.set_default_dtype(default)
