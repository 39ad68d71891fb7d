# SPDX-License-Identifier: Apache-2.0
"""MRDA: blind image super-resolution by meta-learned degradation representations."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrda.upscale.auto import AutoUpscaler
    from mrda.upscale.upscaler import Upscaler

__all__ = ["AutoUpscaler", "Upscaler"]


def __getattr__(name: str) -> Any:
    # On first use, so that `import mrda` and the command line's help need no torch.
    if name == "AutoUpscaler":
        from mrda.upscale.auto import AutoUpscaler

        return AutoUpscaler
    if name == "Upscaler":
        from mrda.upscale.upscaler import Upscaler

        return Upscaler
    raise AttributeError(f"module 'mrda' has no attribute {name!r}")
