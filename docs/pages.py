"""What the documentation takes from the code: a hook of mkdocs.

A line ``<!-- made: options MNL -->`` in a page is replaced, when the site is built, by what the function of that name
makes for that class, so that the code stays the one home of its facts.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pydoc
import re
import textwrap
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import docstring_parser
import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from mmlab.backbones.config import NO_OVERRIDES
from mmlab.cli.classes import subclasses
from mmlab.cli.own_flags import DESCRIPTIONS, FLAGS
from mmlab.cli.parser import import_classes
from mmlab.data.base import MultimodalDataset
from mmlab.methods.base import Method

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "experiments"
RESULTS = ROOT / "docs" / "results.md"
WORDS = {int: "whole number", float: "number", str: "text", bool: "`true`, `false`", NoneType: ""}


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Called by mkdocs with each page's text.

    Raises:
        KeyError: if a page names a part, a class, a command or a section that isn't there.
        ImportError: if it names a module that isn't there.
    """
    return re.sub(
        r"^<!-- made: (\w+) ([\w.-]+) -->$", lambda found: MADE[found[1]](found[2]), markdown, flags=re.MULTILINE
    )


def paper(name: str) -> str:
    """The text of the module that defines a method: paper, idea, loss."""
    return _markdown(inspect.getdoc(inspect.getmodule(kinds()[name])) or "")


def module(name: str) -> str:
    """The text of any module, by its path."""
    return _markdown(inspect.getdoc(importlib.import_module(name)) or "")


def command(name: str) -> str:
    """What ``mmlab NAME --help`` says: what the command does, and its own flags."""
    # Within code, a bar needs no escape and would show it.
    rows = [f"| `--{flag} {values}` | {text} |" for flag, (values, text) in FLAGS[name].items()]
    return "\n".join([f"{DESCRIPTIONS[name]}\n", "| flag | meaning |", "| --- | --- |", *rows])


def readme(section: str) -> str:
    """A section of the README, by its title in lower case with dashes."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    sections = re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return {title.lower().replace(" ", "-"): body for title, body in sections}[section]


def notes(name: str) -> str:
    """The text of a method, a data set, or any class by its path."""
    kind = kinds()[name] if name in kinds() else pydoc.locate(name)
    doc = docstring_parser.parse(inspect.getdoc(kind) or "")
    return _markdown("\n\n".join(text for text in (doc.short_description, doc.long_description) if text))


def options(name: str) -> str:
    """A table of the constructor's arguments: what each can be, is by default, and does."""
    kind = kinds()[name]
    doc = docstring_parser.parse(inspect.getdoc(kind) or "")
    meanings = {param.arg_name: " ".join((param.description or "").split()) for param in doc.params}
    hints, defaults = get_type_hints(kind.__init__), _defaults(kind)  # type: ignore[misc]
    key = "model" if issubclass(kind, Method) else "data.dataset"
    rows = []
    for option in inspect.signature(kind).parameters:
        if option != "spec":  # the command hands it over
            cells = (f"`{option}`", _values(hints[option]), defaults[option], meanings[option])
            rows.append("| " + " | ".join(_markdown(cell).replace("|", "\\|") for cell in cells) + " |")
    if not rows:
        return "There are none."
    head = "| option | values | default | meaning |\n| --- | --- | --- | --- |"
    return "\n".join([f"As a flag: `--{key}.<option>`.\n", head, *rows])


def results(name: str) -> str:
    """The method's rows of the tables in results.md, which are those of ``mmlab compare results/...``."""
    found = []
    for block in re.findall(r"<!-- \w+: mmlab .*? -->\n(.*?)<!-- end", RESULTS.read_text(encoding="utf-8"), re.DOTALL):
        for title, head, body in re.findall(r"^(\*\*.+)\n\n((?:\|.*\n){2})((?:\|.*\n)+)", block, re.MULTILINE):
            rows = re.findall(rf"^\| {name}(?: \(.*?)? \|.*\n", body, re.MULTILINE)
            if rows:
                found.append(f"{title}\n\n{head}{''.join(rows)}")
    return "\n".join(found)


def experiments(name: str) -> str:
    """The experiment files that name the class, with their first lines."""
    rows = [f"| `experiments/{file}` | {line} |" for file, line, used in settings() if name in used]
    return "\n".join(["| file | what it is |", "| --- | --- |", *rows]) if rows else "There are none."


def overview(base: str) -> str:
    """A table of the methods that are below a base, and of the tasks that they are for; or of the data sets."""
    rows = []
    for name, kind in kinds().items():
        if base in [above.__name__ for above in kind.__mro__]:
            line = _markdown(notes(name).split("\n")[0])
            tasks = ", ".join(task.__name__.lower() for task in getattr(kind, "tasks", ()))
            rows.append(f"| `{name}` | {line} |" + (f" {tasks} |" if tasks else ""))
    head = (
        "| method | what it is | tasks |\n| --- | --- | --- |"
        if base == "Method"
        else "| data set | what it is |\n| --- | --- |"
    )
    return "\n".join([head, *sorted(rows, key=str.lower)])


def baseline(name: str) -> str:
    """All of a method that needs no page of its own."""
    parts = {"Options": options(name), "Measured": results(name), "Experiments": experiments(name)}
    return "\n\n".join([paper(name), notes(name), *(_folded(title, text) for title, text in parts.items() if text)])


def dataset(name: str) -> str:
    """All of a data set that its code says."""
    parts = {"Options": options(name), "Experiments": experiments(name)}
    return "\n\n".join([notes(name), *(_folded(title, text) for title, text in parts.items())])


MADE: dict[str, Callable[[str], str]] = {
    made.__name__: made
    for made in (paper, module, command, readme, notes, options, results, experiments, overview, baseline, dataset)
}


@cache
def kinds() -> dict[str, type]:
    """Every method and data set, by name."""
    import_classes()
    bases: tuple[type, ...] = (Method, MultimodalDataset)
    return {kind.__name__: kind for base in bases for kind in subclasses(base) if kind.__module__.startswith("mmlab.")}


@cache
def settings() -> list[tuple[str, str, tuple[str, str]]]:
    """Of each experiment file its name, its first line, and its method and data set."""
    found = []
    for file in sorted(EXPERIMENTS.glob("*.yaml")):
        text = file.read_text(encoding="utf-8")
        config = yaml.safe_load(text)
        used = (config["model"]["class_path"], config["data"]["dataset"]["class_path"])
        found.append((file.name, text.split("\n")[0].removeprefix("#").strip(), used))
    return found


def _folded(title: str, text: str) -> str:
    return f'??? note "{title}"\n\n{textwrap.indent(text, "    ")}'


def _markdown(text: str) -> str:
    """Docstrings are reStructuredText where it differs from Markdown: names of code, and tables."""
    text = re.sub(r":\w+:`~(?:\w+\.)*(\w+)`|:\w+:`([\w.]+)`", lambda found: f"`{found[1] or found[2]}`", text)
    return re.sub(
        r"^(=+ [= ]+\n(?:.*\n)*?=+ [= ]+\n(?:(?:.+\n)+=+ [= ]+)?)$",
        lambda found: f"```text\n{found[1].rstrip()}\n```",
        text,
        flags=re.MULTILINE,
    )


def _values(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(hint))
    if hint in WORDS:
        return WORDS[hint]
    parts = get_args(hint)
    if get_origin(hint) in (list, tuple):
        return f"list of {_values(parts[0])}s"
    if NoneType in parts:
        return ", ".join(filter(None, map(_values, parts)))
    return ""


def _defaults(kind: type) -> dict[str, str]:
    """As the source has them, but for named constants, which are shown by value."""
    (function,) = ast.parse(textwrap.dedent(inspect.getsource(kind.__init__))).body  # type: ignore[misc]
    assert isinstance(function, ast.FunctionDef)
    names = [argument.arg for argument in function.args.args[1:]]
    written = dict.fromkeys(names, "must be given")
    for name, default in zip(reversed(names), reversed(function.args.defaults), strict=False):
        value = inspect.signature(kind).parameters[name].default
        if value is None or value is NO_OVERRIDES:
            written[name] = "none"
        elif isinstance(default, ast.Lambda):
            written[name] = f"`{ast.unparse(default.body)}`"
        else:
            written[name] = f"`{str(value).lower() if isinstance(value, bool) else value}`"
    return written
