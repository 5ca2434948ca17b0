"""Runs every case of every file of reference numbers in --golden-dir.

A file ``<method>/<any name>.json`` has ``inputs`` and ``outputs``, whose keys are ``<case>/<tensor>``, or entries
``<tensor>`` within an entry ``<case>``. Where an entry is a list of others that have names, runners find each under
``<entry>/<name>``, which is a case; outputs that are a case by themselves have the empty name. Strings ``nan`` and
``inf`` are numbers. What a method's files mean is in ``golden_runners/<method>.py``: its ``run(document, case)``
returns the outputs of a case by tensor name. A file or a case that nothing here can run is a failure, not a skip.
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
        document = read(file)
        entries = [*document["inputs"].items(), *document["outputs"].items()]
    except (ValueError, KeyError, TypeError, AttributeError):
        return [""]
    cases = (key if isinstance(value, dict) else key.partition("/")[0] for key, value in entries)
    return list(dict.fromkeys(cases)) or [""]


def read(file: Path) -> dict[str, Any]:
    document: dict[str, Any] = numbers(json.loads(file.read_text()))
    return document | {section: unlisted(document[section]) for section in ("inputs", "outputs")}


def numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: numbers(each) for key, each in value.items()}
    if isinstance(value, list):
        return [numbers(each) for each in value]
    return float(value) if value in ("nan", "inf", "-inf") else value


def unlisted(section: dict[str, Any]) -> dict[str, Any]:
    """Entries of lists under their names."""
    every: dict[str, Any] = {}
    for key, value in section.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            every |= {f"{key}/{each['name']}": {k: v for k, v in each.items() if k != "name"} for each in value}
        else:
            every[key] = value
    return every


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
    return {
        f"{key}/".removeprefix(prefix).rstrip("/"): value for key, value in own.items() if f"{key}/".startswith(prefix)
    }


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
    actual, expected = actual.double(), expected.double()
    off = (actual - expected).abs()
    rounding = 8 * torch.finfo(torch.float64).eps * expected.abs()  # of large numbers
    # Written this way round, a NaN fails where none is expected.
    same = (off <= TOLERANCE + rounding) | (actual == expected) | (actual.isnan() & expected.isnan())
    assert bool(same.all()), f"{name} is off by up to {off[~same].max().item():.3g}"


def test_there_is_something_to_run(pytestconfig: pytest.Config) -> None:
    folder = pytestconfig.getoption("--golden-dir")
    assert list(folder.rglob("*.json")), f"{folder} has no reference numbers, <method>/<any name>.json"


def test_golden(golden_file: Path, golden_case: str, pytestconfig: pytest.Config) -> None:
    folder = pytestconfig.getoption("--golden-dir")
    assert golden_file.parent.parent == folder, f"{golden_file} is not <method>/<any name>.json under {folder}"
    assert golden_case, f"{golden_file} is no JSON with inputs and outputs named <case>/<tensor>"
    document = read(golden_file)
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
