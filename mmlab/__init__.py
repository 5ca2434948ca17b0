"""mmlab: balanced and robust multimodal learning on one PyTorch Lightning base."""

__version__ = "0.1.0"
