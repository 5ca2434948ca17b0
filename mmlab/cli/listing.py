"""``mmlab list``: read from the source files, so that it answers at once."""

from __future__ import annotations

import ast
from pathlib import Path

import mmlab
from mmlab.errors import UserError, did_you_mean

PACKAGE = Path(mmlab.__file__).parent


def print_list(words: list[str]) -> None:
    """Prints the methods, data sets, backbones or experiments there are, a line each.

    Raises:
        UserError: for an unknown word.
    """
    kinds = {
        "methods": lambda: _classes(PACKAGE / "methods", "Method"),
        "datasets": lambda: _classes(PACKAGE / "data", "MultimodalDataset"),
        "backbones": _backbones,
        "experiments": _experiments,
    }
    if {"--help", "-h"} & set(words):
        print(f"usage: mmlab list [{'] ['.join(kinds)}]\n\nNames what there is, a line each; everything by default.")
        return
    for word in words:
        if word not in kinds:
            raise UserError(f"there is no list of {word!r}{did_you_mean(word, kinds)}; there are {', '.join(kinds)}.")
    for kind in words or kinds:
        if len(words) != 1:
            print(f"{kind}:")
        rows = kinds[kind]()
        width = max((len(name) for name, _ in rows), default=0)
        for name, line in rows:
            print(f"  {name:<{width}}  {line}")


def _classes(folder: Path, base: str) -> list[tuple[str, str]]:
    """The subclasses of one base that a package defines, with the first line of their docstrings.

    One that lists ABC among its bases is itself only a base: those below it count.
    """
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.py"))]
    found = [node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)]
    parents = {node.name: {ast.unparse(parent) for parent in node.bases} for node in found}
    bases = {base}
    while more := {name for name, above in parents.items() if "ABC" in above and above & bases} - bases:
        bases |= more
    return [
        (node.name, (ast.get_docstring(node) or "").split("\n")[0])
        for node in found
        if parents[node.name] & bases and node.name not in bases
    ]


def _backbones() -> list[tuple[str, str]]:
    own = [
        ({"SmallConvNet": "small_conv", "FaceResNet": "face_resnet18"}.get(name, name), line)
        for name, line in _classes(PACKAGE / "backbones", "Backbone")
        if name != "TimmBackbone"
    ]
    return [
        *own,
        ("lstm", "for sequences: an LSTM of one layer, the state after the last step"),
        ("sequence_transformer", "for sequences: a transformer of two layers, the mean over the steps"),
        ("mlp", "for vectors, and the mean of a sequence: two linear layers with ReLU"),
        ("first_step", "for features of a text model: the first step's values as they are; nothing is learnt"),
        ("word_embeddings", "for text: the mean of its tokens' learnt embeddings"),
        ("sensor_conv", "for 3-axis sensors: four convolutions, of ERL-MR's released code for USC-HAD"),
        ("sensor_gru", "for sensors: convolutions and a GRU, as on MHAD"),
        ("skeleton_gru", "for joints: convolutions and a GRU, as on MHAD"),
        ("any timm model", "for example resnet18, convnext_tiny, vit_tiny_patch16_224"),
        ("a local folder", "for text: a model of transformers, for example models/bert-base-uncased"),
        ("package.module.Class", "your own subclass of mmlab.backbones.base.Backbone"),
    ]


def _experiments() -> list[tuple[str, str]]:
    rows = []
    for file in sorted(Path("experiments").glob("*.yaml")):
        first = file.read_text(encoding="utf-8").split("\n")[0]
        rows.append((str(file), first.removeprefix("#").strip()))
    return rows or [("none", "there is no folder experiments/ here: run this in the checkout of mmlab")]
