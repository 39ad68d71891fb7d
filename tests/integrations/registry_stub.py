"""A stand-in for what the plug-in uses of the package spandrel, after the interface of its version 0.4.2."""

from dataclasses import dataclass
from enum import Enum
from types import ModuleType

import torch


class UnsupportedModelError(Exception):
    pass


class DuplicateArchitectureError(ValueError):
    pass


class ModelTiling(Enum):
    SUPPORTED = 1
    DISCOURAGED = 2
    INTERNAL = 3


class Architecture:
    def __class_getitem__(cls, _):
        return cls

    def __init__(self, *, id, detect, name=None):
        self.id, self.name, self.detect = id, name or id, detect


@dataclass(frozen=True)
class ArchSupport:
    architecture: Architecture
    detect: object
    before: tuple = ()

    @staticmethod
    def from_architecture(architecture, before=()):
        return ArchSupport(architecture, architecture.detect, before)


class ArchRegistry:
    def __init__(self):
        self._by_id = {}

    def __iter__(self):
        return iter(self._by_id.values())

    def __contains__(self, id):
        return id in self._by_id

    def __len__(self):
        return len(self._by_id)

    def add(self, *supports, ignore_duplicates=False):
        for support in supports:
            if support.architecture.id not in self._by_id:
                self._by_id[support.architecture.id] = support
            elif not ignore_duplicates:
                raise DuplicateArchitectureError(f"Duplicate architecture: {support.architecture.id}")

    def load(self, state):
        for key in ("state_dict", "params_ema", "params"):
            if isinstance(state.get(key), dict):
                state = state[key]
                break
        for support in self:
            if support.detect(state):
                return support.architecture.load(state)
        raise UnsupportedModelError


class ImageModelDescriptor:
    def __class_getitem__(cls, _):
        return cls

    def __init__(
        self,
        model,
        state_dict,
        architecture,
        purpose,
        tags,
        supports_half,
        supports_bfloat16,
        scale,
        input_channels,
        output_channels,
        size_requirements=None,
        tiling=ModelTiling.SUPPORTED,
        call_fn=None,
    ):
        self.model, self.architecture, self.purpose, self.tags = model, architecture, purpose, tags
        self.supports_half, self.supports_bfloat16 = supports_half, supports_bfloat16
        self.scale, self.input_channels, self.output_channels = scale, input_channels, output_channels
        self.tiling = tiling
        self._call_fn = call_fn or (lambda model, image: model(image))
        model.load_state_dict(state_dict)

    def bfloat16(self):
        self.model.to(torch.bfloat16)
        return self

    @torch.inference_mode()
    def __call__(self, image):
        return self._call_fn(self.model, image).clamp_(0, 1)


class ModelLoader:
    def __init__(self, device=None, registry=None):
        self.registry = registry or MAIN_REGISTRY

    def load_from_state_dict(self, state):
        return self.registry.load(state)


MAIN_REGISTRY = ArchRegistry()


def module():
    """A new module to put into sys.modules."""
    found = ModuleType("spandrel")
    names = ("UnsupportedModelError", "ModelTiling", "Architecture", "ArchSupport", "ImageModelDescriptor")
    for name in (*names, "ModelLoader", "MAIN_REGISTRY"):
        setattr(found, name, globals()[name])
    return found
