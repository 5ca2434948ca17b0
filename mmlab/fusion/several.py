"""What all fusion asks of a data set: more than one modality."""

from __future__ import annotations

from collections.abc import Collection

from mmlab.errors import UserError


def require_several(names: Collection[str]) -> None:
    """Refuses to fuse a single modality.

    Raises:
        UserError: if there are fewer than two names.
    """
    if len(names) < 2:
        raise UserError(
            f"fusion needs two modalities or more, but this data set has only {', '.join(names)}: "
            f"choose the method Unimodal or another data set."
        )
