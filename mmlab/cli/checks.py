"""What is checked before the parser runs: it would say nothing, or too much."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import traceback
from pathlib import Path
from typing import Any

import yaml

from mmlab.cli.messages import config_files
from mmlab.errors import UserError
from mmlab.methods.base import Method

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def check_configs(words: list[str]) -> None:
    """Refuses a config file that is not text, sets a key twice, or sets what is linked.

    Raises:
        UserError: naming the file, and the key and its line.
    """
    for file in config_files(words):
        try:
            text = Path(file).read_text(encoding="utf-8")
            _refuse_twice(file, yaml.compose(text, yaml.SafeLoader), set())
        except UnicodeDecodeError:
            raise UserError(f"{file} is not a text file: give --config a YAML file.") from None
        except (OSError, yaml.YAMLError):
            continue  # the parser says what is wrong with it
        content = _load(file)
        for key in (("model", "spec"), ("model", "init_args", "spec"), ("data", "seed")):
            if _get(content, *key) is not None:
                raise UserError(f"{file} sets {'.'.join(key)}: take it out, it follows from the data set and the seed.")


def check_linked_flags(words: list[str]) -> None:
    """Refuses a flag that sets what is linked: the data set says the spec, and would overwrite it without a word.

    Raises:
        UserError: naming the flag.
    """
    for word in words:
        if word.startswith(("--model.spec", "--model.init_args.spec", "--data.seed")):
            raise UserError(f"{word.split('=')[0]} can't be set: it follows from the data set and --seed.")


def check_model(words: list[str]) -> None:
    """Refuses a method of a person's own that can't be imported or isn't one; an unknown name is the parser's matter.

    Raises:
        UserError: naming the file and the line.
    """
    given = _model(words)
    if given.endswith(".py"):
        module = ".".join(Path(given).with_suffix("").parts)
        raise UserError(f"the model {given} is a file: name the class in it too, such as {module}.MyMethod.")
    module, _, name = given.rpartition(".")
    if not all(part.isidentifier() for part in given.split(".")) or not module:
        return
    try:
        kind = getattr(importlib.import_module(module), name, None)
    except UserError:
        raise
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            return
        raise _unimportable(given, module, error) from error
    except Exception as error:  # whatever a module does when it is imported
        raise _unimportable(given, module, error) from error
    if kind is not None:
        _refuse_no_method(given, kind)


def _model(words: list[str]) -> str:
    """The class that is named: by a flag, or else by the last config file that names one."""
    pairs = [(word, *words[i + 1 : i + 2]) for i, word in enumerate(words)]
    pairs += [tuple(word.split("=", 1)) for word in words if "=" in word]
    named = [pair[1] for pair in pairs if pair[0] in ("--model", "--model.class_path", "--model.help") and pair[1:]]
    models = [_get(_load(file), "model") for file in config_files(words)]
    filed = [model.get("class_path") if isinstance(model, dict) else model for model in models]
    return next((name for name in reversed([*filed, *named]) if isinstance(name, str)), "")


def _unimportable(given: str, module: str, error: Exception) -> UserError:
    reason = " ".join(traceback.format_exception_only(error)[-1].split())
    if isinstance(error, SyntaxError):
        file, line, reason = error.filename or module, error.lineno, error.msg
    else:
        file = _file_of(module)
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        line = frames[-1].lineno if frames else None
        reason = str(error) if isinstance(error, ImportError) else reason
    place = _short(file) + (f", line {line}" if line else "")
    return UserError(f"{place}: {reason}; mend it there, or {given} can't be imported.")


def _refuse_no_method(given: str, kind: Any) -> None:
    if not isinstance(kind, type):
        raise UserError(f"the model {given} is not a class: name one that derives from mmlab.methods.base.Method.")
    try:
        place = f"{_short(inspect.getfile(kind))}, line {inspect.getsourcelines(kind)[1]}: {kind.__name__}"
    except (OSError, TypeError):
        place = given
    if not issubclass(kind, Method):
        raise UserError(f"{place} is not a method: derive it from mmlab.methods.base.Method.")
    missing = sorted(getattr(kind, "__abstractmethods__", ()))
    if missing:
        raise UserError(f"{place} lacks {' and '.join(missing)}: define what every method must have.")
    parameters = list(inspect.signature(kind).parameters.values())
    if not parameters or (parameters[0].name != "spec" and parameters[0].kind not in _VARIADIC):
        first = f"{parameters[0].name!r}" if parameters else "absent"
        raise UserError(f"{place}: the first argument of __init__ is {first}, but it must be `spec: dict[str, Any]`.")


def _file_of(module: str) -> str:
    try:
        spec = importlib.util.find_spec(module)
    except Exception:  # a package around it fails already
        return module
    return (spec.origin if spec else None) or module


def _short(file: str) -> str:
    """Relative to the working folder for what lies in it."""
    relative = os.path.relpath(file)
    return file if relative.startswith("..") else relative


def _refuse_twice(file: str, node: yaml.Node | None, seen: set[int]) -> None:
    if not isinstance(node, yaml.CollectionNode) or id(node) in seen:
        return
    seen.add(id(node))
    if not isinstance(node, yaml.MappingNode):
        for item in node.value:
            _refuse_twice(file, item, seen)
        return
    keys: set[str] = set()
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in keys:
                raise UserError(
                    f"{file}, line {key.start_mark.line + 1}: {key.value!r} is set twice; keep one of them."
                )
            keys.add(key.value)
        _refuse_twice(file, value, seen)


def _load(file: str) -> Any:
    try:
        with open(file, encoding="utf-8") as text:
            return yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):
        return None  # the parser says what is wrong with it


def _get(found: Any, *key: str) -> Any:
    for part in key:
        if not isinstance(found, dict) or part not in found:
            return None
        found = found[part]
    return found
