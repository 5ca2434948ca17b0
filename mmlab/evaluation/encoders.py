"""Which encoder is which modality's, and which modalities a method looks at."""

from __future__ import annotations

from torch import nn

from mmlab.availability import Combination
from mmlab.methods.base import Method
from mmlab.methods.incomplete import Incomplete
from mmlab.networks.base import Network


def encoders_of(method: Method) -> dict[str, nn.Module]:
    """The encoder of each modality that has one, by name; none for a method that reads the inputs by its own modules.

    OMD's are those of its available modalities: they decide, its teachers don't.
    """
    holder = method.network if isinstance(method, Incomplete) else method
    return {
        name: encoder.encoders[name] if isinstance(encoder, Network) else encoder
        for name, encoder in holder.encoders.items()
    }


def looked_at(method: Method) -> Combination:
    """The modalities that may change a method's decision.

    They are those of the combinations that it is tested with, where it names some, else those that it has an encoder
    of, else all.
    """
    if method.tested:
        return tuple(map(any, zip(*method.tested, strict=True)))
    encoders = encoders_of(method)
    return tuple(name in encoders or not encoders for name in method.spec.names)
