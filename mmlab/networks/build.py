"""Which network serves which task and backbones."""

from __future__ import annotations

from torch import nn

from mmlab.networks.base import Network
from mmlab.networks.vector import VectorNetwork
from mmlab.types import DataSpec


def build_network(spec: DataSpec, encoders: nn.ModuleDict) -> Network:
    """The network that the encoders are meant for.

    Args:
        spec: the data set's modalities and task.
        encoders: from :func:`~mmlab.backbones.config.build_encoders`; the network holds them from now on.
    """
    return VectorNetwork(encoders, spec.task.outputs)
