"""Which network serves which task and backbones."""

from __future__ import annotations

from torch import nn

from mmlab.backbones.face_resnet import FaceResNet
from mmlab.errors import UserError
from mmlab.networks.base import Network
from mmlab.networks.face import FaceNetwork
from mmlab.networks.segmentation import SegmentationNetwork
from mmlab.networks.vector import VectorNetwork
from mmlab.types import DataSpec, Segmentation


def build_network(spec: DataSpec, encoders: nn.ModuleDict) -> Network:
    """The network that the encoders are meant for.

    Args:
        spec: the data set's modalities and task.
        encoders: from :func:`~mmlab.backbones.config.build_encoders`, dense for segmentation; the network holds them
            from now on.

    Returns:
        A :class:`~mmlab.networks.segmentation.SegmentationNetwork` for a class of each pixel, a
        :class:`~mmlab.networks.face.FaceNetwork` for encoders that are all ``face_resnet18``, else a
        :class:`~mmlab.networks.vector.VectorNetwork`.

    Raises:
        UserError: if the modalities or their encoders don't fit together.
    """
    if isinstance(spec.task, Segmentation):
        return SegmentationNetwork(spec, encoders)
    faces = [isinstance(encoder, FaceResNet) for encoder in encoders.values()]
    if not any(faces):
        return VectorNetwork(encoders, spec.task.outputs)
    if not all(faces):
        other = spec.names[faces.index(False)]
        raise UserError(
            f"face_resnet18 goes on with the maps of all modalities together, but {other!r} has another backbone: give "
            f"it face_resnet18 too, or choose another backbone for all."
        )
    shapes = [modality.shape[1:] for modality in spec.modalities]
    for name, shape in zip(spec.names, shapes, strict=True):
        if len(shape) != 2 or shape != shapes[0]:
            raise UserError(
                f"face_resnet18 puts pictures of one size side by side, but {name!r} of {spec.dataset} is "
                f"{' x '.join(map(str, shape))} and {spec.names[0]!r} {' x '.join(map(str, shapes[0]))}: choose "
                f"another backbone, such as resnet18."
            )
    return FaceNetwork(encoders, spec.task.outputs)
