"""The memory of a training step of segmentation: two ResNet-50, 480 x 640, a batch of 8, bfloat16, SGD with momentum.

    python benchmarks/segmentation_memory.py

With a GPU, the peak that its allocator reached in a step on random pictures. Without one, an accounting: the same step
on tensors that have sizes but no values, with every allocation followed; what cuDNN takes for itself is not in
it, and where a method works on some samples of a batch, it is counted for all of them.
"""

from __future__ import annotations

import argparse
import warnings
import weakref
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmlab.cli.classes import subclasses
from mmlab.cli.parser import import_classes
from mmlab.draws import Draws
from mmlab.methods.base import Method
from mmlab.types import Batch, DataSpec, Modality, Segmentation

LIMIT = 24.0
# Every part of the objective acts in every step.
METHODS: dict[str, dict[str, Any]] = {
    "ModalityDropout": {},
    "MMANet": {"warmup_epochs": 0, "distil_from": 0, "weak": ["depth"]},
    "DMRNet": {"hard_epoch": 0},
}


class Accounting(TorchDispatchMode):
    """Adds up the storages that are alive, and takes every condition to hold: tensors without values can't tell."""

    def __init__(self) -> None:
        super().__init__()
        self.alive, self.peak = 0, 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return True
        if func is torch.ops.aten.nonzero.default:
            result = torch.arange(args[0].shape[0], device=args[0].device)[:, None]
        else:
            result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, torch.Tensor):
                self.add(each)
        return result

    def add(self, tensor: torch.Tensor) -> None:
        """Counts a tensor's storage until it is freed, once however many tensors share it."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.alive += size
            self.peak = max(self.peak, self.alive)
            weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._known.remove(key)
        self.alive -= size


def spec(size: tuple[int, int]) -> DataSpec:
    """NYUv2's, as far as memory goes."""
    modalities = (Modality("rgb", "image", (3, *size)), Modality("depth", "depth", (1, *size)))
    return DataSpec("NYUv2", modalities, Segmentation(tuple(map(str, range(40))), weights=(1.0,) * 40), 795)


def late_in_training(kind: type[Method]) -> type[Method]:
    """The method as it is after its warm-up, outside of a Trainer."""
    draws = {"current_epoch": 100, "draws": lambda self, batch: Draws(0, 100, batch.index)}
    return type(kind.__name__, (kind,), draws)


def pictures(data: DataSpec, size: int, device: torch.device) -> Batch:
    """A batch of random ones."""
    inputs = {modality.name: torch.randn(size, *modality.shape, device=device) for modality in data.modalities}
    inputs = {name: each.to(memory_format=torch.channels_last) for name, each in inputs.items()}
    target = torch.randint(40, (size, *data.modalities[0].shape[1:]), device=device)
    present = torch.ones(size, 2, dtype=torch.bool, device=device)
    return Batch(inputs, target, present, torch.arange(size, device=device))


def momentum(method: Method) -> Optimizer:
    """SGD over what trains."""
    trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
    return torch.optim.SGD(trained, lr=0.01, momentum=0.9, nesterov=True)


def step(method: Method, batch: Batch, optimizer: Optimizer) -> None:
    """Forward, backward, update."""
    with torch.autocast(batch.target.device.type, torch.bfloat16):
        loss = method.losses(batch)["loss"]
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def without_values(method: Method, mode: FakeTensorMode) -> None:
    """Leaves of a method's parameters and buffers their sizes alone."""
    for part in method.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                fake = mode.from_tensor(parameter.detach())
                part._parameters[name] = nn.Parameter(fake, requires_grad=parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = mode.from_tensor(buffer)


def peak(kind: type[Method], options: dict[str, Any], data: DataSpec, batch_size: int, backbone: str) -> float:
    """GiB in the second step."""
    method = late_in_training(kind)(spec=data.to_dict(), backbone=backbone, **options)
    method.begin(method.stages()[-1])
    if torch.cuda.is_available():
        device = torch.device("cuda")
        method.to(device, memory_format=torch.channels_last)
        batch, optimizer = pictures(data, batch_size, device), momentum(method)
        step(method, batch, optimizer)  # the optimiser's momentum is there from the first step on
        torch.cuda.reset_peak_memory_stats()
        step(method, batch, optimizer)
        return torch.cuda.max_memory_allocated() / 2**30
    device = torch.device("cpu")
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, Accounting() as accounting:
        without_values(method, mode)
        for tensor in (*method.parameters(), *method.buffers()):
            accounting.add(tensor)
        batch, optimizer = pictures(data, batch_size, device), momentum(method)
        step(method, batch, optimizer)
        accounting.peak = accounting.alive
        step(method, batch, optimizer)
        return accounting.peak / 2**30


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--backbone", default="resnet50.tv_in1k", help="of both modalities")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), help="height and width")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    options = parser.parse_args()
    warnings.filterwarnings("ignore")

    import_classes()
    kinds = {kind.__name__: kind for kind in subclasses(Method)}
    data = spec((options.size[0], options.size[1]))
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "accounting, without a GPU"
    print(
        f"{options.backbone}, {options.size[0]} x {options.size[1]}, batch {options.batch_size}, bfloat16: {where}\n\n"
        f"| method | peak, GiB | within {LIMIT:.0f} |\n| --- | --- | --- |"
    )
    for name in options.methods:
        used = peak(kinds[name], METHODS[name], data, options.batch_size, options.backbone)
        print(f"| {name} | {used:.1f} | {'yes' if used <= LIMIT else 'no'} |", flush=True)


if __name__ == "__main__":
    main()
