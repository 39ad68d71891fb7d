# SPDX-License-Identifier: Apache-2.0
"""A node for ComfyUI: copy this file to ComfyUI/custom_nodes, with `mrda` installed in ComfyUI's Python."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from mrda import Upscaler


@lru_cache(maxsize=1)
def upscaler_of(weights: str) -> Upscaler:
    """Return the upscaler with those weights; the last one stays in memory."""
    return Upscaler.from_pretrained(weights)


class UpscaleMRDA:
    """Upscales each image of a batch with its own degradation, in tiles that share it."""

    CATEGORY = "image/upscaling"
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "upscale"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Return the node's inputs, as ComfyUI asks for them."""
        return {"required": {"image": ("IMAGE",), "weights": ("STRING", {"default": "mrda-x4"})}}

    def upscale(self, image: torch.Tensor, weights: str) -> tuple[torch.Tensor]:
        """Return a batch (B, scale H, scale W, 3) in [0, 1] of one (B, H, W, 3)."""
        upscaler = upscaler_of(weights.strip())
        photos = image[..., :3].movedim(-1, 1).float().clamp(0, 1)  # other nodes overshoot a little
        results = [upscaler(photo[None]) for photo in photos]
        return (torch.cat(results).movedim(1, -1).cpu(),)


NODE_CLASS_MAPPINGS = {"UpscaleMRDA": UpscaleMRDA}
NODE_DISPLAY_NAME_MAPPINGS = {"UpscaleMRDA": "Upscale image (MRDA)"}
