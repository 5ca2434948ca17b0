"""The synthetic twins of all data sets at their smallest: the flags that make them and the flags that use them."""

from __future__ import annotations

PREPARE: dict[str, tuple[str, ...]] = {
    "AVDigits": ("",),
    "GRIDLetters": ("",),
    "GRIDWords": ("",),
    "LDrawParts": ("",),
    "KineticsSounds": ("--frame_side 32",),
    "CREMAD": ("--frame_side 32 --recipe udml", "--frame_side 32 --recipe di_mml"),
    "MVSASingle": ("",),
    "Food101": ("",),
    "NYUScenes": ("",),
    "AVE": ("--frame_side 32",),
    "VGGSound": ("--frame_side 32",),
    "ModelNet40": ("--view_side 32",),
    "UCF101": ("--frame_side 32 --image_size 32",),
    "USCHAD": ("",),
    "MHAD": ("",),
}
TINY_TEXT = "--model.backbones.text {root}/tiny_bert --model.backbones.image small_conv"
SMALLER: dict[str, str] = {
    "Keypad": "--data.dataset.train_size 96 --data.dataset.val_size 36 --data.dataset.test_size 36",
    "AVDigits": "--data.dataset.root {root}",
    "GRIDLetters": "--data.dataset.root {root}",
    "GRIDWords": "--data.dataset.root {root}",
    "LDrawParts": "--data.dataset.root {root}",
    "KineticsSounds": "--data.dataset.root {root} --data.dataset.frame_side 32 --data.dataset.image_size 32",
    "CREMAD": "--data.dataset.root {root} --data.dataset.frame_side 32 --data.dataset.image_size 32",
    "MVSASingle": f"--data.dataset.root {{root}} {TINY_TEXT}",
    "Food101": f"--data.dataset.root {{root}} {TINY_TEXT}",
    "NYUScenes": "--data.dataset.root {root}",
    "AVE": "--data.dataset.root {root} --data.dataset.frame_side 32 --data.dataset.image_size 32",
    "VGGSound": "--data.dataset.root {root} --data.dataset.frame_side 32 --data.dataset.image_size 32",
    "ModelNet40": "--data.dataset.root {root} --data.dataset.view_side 32 --data.dataset.image_size 32",
    "UCF101": "--data.dataset.root {root} --data.dataset.frame_side 32 --data.dataset.image_size 32",
    "USCHAD": "--data.dataset.root {root}",
    "MHAD": "--data.dataset.root {root}",
    "MovingShapes": "--data.dataset.train_size 96 --data.dataset.val_size 36 --data.dataset.test_size 36",
    "Solids": "--data.dataset.train_size 96 --data.dataset.val_size 36 --data.dataset.test_size 36",
}
