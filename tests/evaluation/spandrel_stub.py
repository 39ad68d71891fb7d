"""A stand-in for the package spandrel, after the interface of its version 0.4.2.

`torch.save({...}, path)` of what `network` returns is a file that it loads.
"""

from types import ModuleType

import torch
from torch import nn
from torch.nn import functional as F


def network(scale=2, purpose="SR", channels=(3, 3), **options):
    """Content of a weights file; `options` say how the network behaves, see `_Model`."""
    return {"scale": scale, "purpose": purpose, "channels": list(channels), **options}


def module():
    """A new module to put into sys.modules."""
    found = ModuleType("spandrel")
    for thing in (UnsupportedModelError, ImageModelDescriptor, MaskedImageModelDescriptor, ModelLoader):
        setattr(found, thing.__name__, thing)
    return found


class UnsupportedModelError(Exception):
    pass


class _Model(nn.Module):
    """Nearest neighbours, plus `offset`; `spoils` writes into its input; `smallest` is the smallest side it takes."""

    def __init__(self, scale, offset=0.0, spoils=False, smallest=1):
        super().__init__()
        self.scale, self.spoils, self.smallest = scale, spoils, smallest
        self.offset = nn.Parameter(torch.tensor(float(offset)))

    def forward(self, image):
        if min(image.shape[2:]) < self.smallest:
            raise RuntimeError("Padding size should be less than the input. Whatever.")
        sr = F.interpolate(image, scale_factor=self.scale, mode="nearest") + self.offset
        if self.spoils:
            image.zero_()
        return sr


class _Descriptor:
    def __init__(self, model, purpose, scale, input_channels, output_channels):
        self.model = model
        self.purpose = purpose
        self.scale = scale
        self.input_channels = input_channels
        self.output_channels = output_channels

    @property
    def device(self):
        return next(self.model.parameters()).device

    @property
    def dtype(self):
        return next(self.model.parameters()).dtype

    def to(self, device):
        self.model.to(device)
        return self

    def eval(self):
        self.model.eval()
        return self


class ImageModelDescriptor(_Descriptor):
    @torch.inference_mode()
    def __call__(self, image):
        assert image.device == self.device
        assert image.dtype == self.dtype
        assert image.shape[:2] == (1, self.input_channels)
        assert not self.model.training
        return self.model(image).clamp_(0, 1)


class MaskedImageModelDescriptor(_Descriptor):
    def __call__(self, image, mask):
        raise NotImplementedError


class ModelLoader:
    def __init__(self, device=None):
        self.device = torch.device(device) if isinstance(device, str) else device or torch.device("cpu")

    def load_from_file(self, path):
        if path.suffix not in (".pth", ".pt", ".ckpt", ".safetensors"):
            raise ValueError(f"Unsupported model file extension {path.suffix}. Please try a supported model type.")
        state = torch.load(path, map_location=self.device, weights_only=True)
        if "scale" not in state:
            raise UnsupportedModelError
        options = {key: value for key, value in state.items() if key not in ("scale", "purpose", "channels")}
        kind = MaskedImageModelDescriptor if state["purpose"] == "Inpainting" else ImageModelDescriptor
        return kind(_Model(state["scale"], **options), state["purpose"], state["scale"], *state["channels"]).to(
            self.device
        )
