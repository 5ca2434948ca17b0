"""What the pictures share: colours, markers, and writing whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind tell apart, without the yellow that white swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
# One more than colours, so that the pairs repeat late.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def save(figure: Figure, picture: Path) -> None:
    """Writes a PNG or SVG, by the file's ending; an SVG keeps its text as text and is the same every time."""
    from matplotlib import rc_context  # costs half a second; only a picture needs it

    picture.parent.mkdir(parents=True, exist_ok=True)
    partial = picture.with_name(f".{picture.name}.partial{picture.suffix}")
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "mmlab"}):
        figure.savefig(partial, dpi="figure", metadata={"Date": None} if picture.suffix == ".svg" else None)
    partial.replace(picture)
