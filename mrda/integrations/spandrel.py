# SPDX-License-Identifier: Apache-2.0
"""An architecture for Spandrel, the library by which ComfyUI, chaiNNer and others load super-resolution networks.

After `register()` Spandrel's `ModelLoader` loads students, ours and the authors'. The tests run against Spandrel itself
if it is installed. It needs torchvision, which nothing else here does, so otherwise they run against a stand-in with
the interface of its version 0.4.2.
"""

from typing import Any

import torch
from spandrel import (
    MAIN_REGISTRY,
    Architecture,
    ArchSupport,
    ImageModelDescriptor,
    ModelTiling,
)

from mrda.networks import MRDAStudent, load_official
from mrda.networks.official import unlabelled_to_official
from mrda.upscale.upscaler import Upscaler

ID = "MRDA"
_OURS = ("rdan.head.weight", "rdan.compress.weight", "den.convs.0.weight", "den.mlp.0.weight")
_OFFICIAL = ("G.head.0.weight", "G.compress.0.weight", "E_st.E.0.weight", "E_st.mlp.0.weight")


def register() -> None:
    """Register the architecture with Spandrel; a second call changes nothing."""
    MAIN_REGISTRY.add(ArchSupport.from_architecture(MRDAArch()), ignore_duplicates=True)


class MRDAArch(Architecture[MRDAStudent]):
    """The student, MRDA_S. All other networks of the method need the HR image, and are not detected.

    Spandrel passes on the tensors of a file without its metadata. Hyperparameters are read from keys and shapes; those
    that these do not show are those of the released code, see `mrda.networks.load_official`.
    """

    def __init__(self) -> None:
        super().__init__(id=ID, name=ID, detect=_is_student)

    def load(self, state_dict: dict[str, Any]) -> ImageModelDescriptor[MRDAStudent]:
        """Build the network of a state dict with our key names or the published ones.

        Images are upscaled by `mrda.Upscaler`, in tiles that fit into memory and share the degradation of the whole
        image: other programs should not cut images into tiles themselves.

        Raises:
            ValueError: keys or shapes are not a student's.
        """
        network = load_official(unlabelled_to_official(state_dict) if _OURS[0] in state_dict else state_dict)
        assert isinstance(network, MRDAStudent)  # because its keys were detected
        options = network.hyperparameters
        return ImageModelDescriptor(
            network,
            network.state_dict(),
            architecture=self,
            purpose="SR",
            tags=[f"{options['num_feat']}nf", f"{options['num_blocks']}nb"],
            supports_half=False,
            supports_bfloat16=True,
            scale=network.scale,
            input_channels=3,
            output_channels=3,
            tiling=ModelTiling.INTERNAL,
            call_fn=_Upscaling(),
        )


class _Upscaling:
    """Calls an `Upscaler` of the network, a new one whenever the host has moved or converted the network."""

    def __init__(self) -> None:
        self._upscaler: Upscaler | None = None
        self._made_for: tuple[torch.device, torch.dtype] | None = None

    def __call__(self, network: MRDAStudent, image: torch.Tensor) -> torch.Tensor:
        weight = network.rdan.head.weight
        now = weight.device, weight.dtype
        if self._upscaler is None or self._made_for != now:
            self._upscaler, self._made_for = Upscaler(network, dtype=torch.float32), now
        return self._upscaler(image)


def _is_student(state: dict[str, Any]) -> bool:
    if all(key in state for key in _OURS):
        return bool(state["den.convs.0.weight"].shape[1] == 3)  # a teacher's DEN reads the MLN's features
    return all(key in state for key in _OFFICIAL)
