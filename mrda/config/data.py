"""Where training photos come from and how they are degraded."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from mrda.config.base import Angle, PositiveInt, Range, Section


class DataConfig(Section):
    """Where the HR training photos come from."""

    sources: list[str] = []
    """Folders, image files, caches made by `mrda data prepare`, or `skimage:NAME` for a photo inside the scikit-image
    wheel. Photos are kept in memory, caches stay on the disk."""
    recursive: bool = True
    """Look into the subfolders of the folders too."""
    patch_size: PositiveInt = 64
    """Side of the training patches in LR pixels; the HR patches are `scale` times larger."""
    crop_size: PositiveInt | None = None
    """Side in HR pixels of the crops that the real degradation works on, before a patch is cut out of the result;
    smaller photos are reflected at their borders. null is that of the HR patches."""
    draw: Literal["photos", "pixels"] = "photos"
    """What patches are drawn from evenly: photos, each of which counts alike, or pixels, of which large have more."""
    use_hflip: bool = True
    """Flip half of the patches horizontally."""
    use_rot: bool = True
    """Flip half of them vertically, and transpose half."""


class DegradationConfig(Section):
    """How LR is made from HR: by Gaussian blur, downsampling and Gaussian noise, or as real photos are (`real`)."""

    type: Literal["classic", "real"] = "classic"
    """`real` is described by the section `real`; of this one it takes `per`, `border` and `lr_up_from`."""
    kernel: Literal["isotropic", "anisotropic", "none"] = "isotropic"
    """Family of blur kernels."""
    kernel_size: PositiveInt = 21
    """Side of the blur kernels in HR pixels; odd."""
    sigma_range: Range | None = None
    """Range of the kernels' standard deviations in HR pixels; null means 0.2 to 2, 3, 4 for x2, x3, x4."""
    theta_range: tuple[Angle, Angle] = (0.0, 3.141592653589793)
    """Range of the rotation of anisotropic kernels in radians."""
    aniso_param: Literal["sigma", "eigen"] = "sigma"
    """What `sigma_range` gives for anisotropic kernels: standard deviations or covariance eigenvalues."""
    noise_range: Range = (0.0, 0.0)
    """Range of the noise's standard deviation, on the 0..255 scale."""
    per: Literal["batch", "image"] = "batch"
    """Draw one degradation per batch (the premise of adapting the MLN to a batch) or one per image."""
    downsample: Literal["bicubic", "sfold"] = "bicubic"
    """Downsampling after the blur: antialiased bicubic, or every `scale`-th pixel."""
    border: Literal["clamp", "mirror"] = "clamp"
    """Border rule of the bicubic resampling; `mirror` is MATLAB's."""
    lr_up_from: Literal["raw", "quantised"] = "raw"
    """What the MLN's residual input is enlarged from: LR before its rounding to 8 bits, or after."""

    @property
    def resampling(self) -> dict[str, str]:
        """The options that fixed degradations of an evaluation share with those of the training."""
        return {"downsample": self.downsample, "border": self.border, "lr_up_from": self.lr_up_from}

    @field_validator("kernel_size")
    @classmethod
    def _odd(cls, size: int) -> int:
        if size % 2 == 0:
            raise ValueError(f"must be odd, it was {size}")
        return size

    @field_validator("sigma_range", "theta_range", "noise_range")
    @classmethod
    def _ascending(cls, bounds: tuple[float, float] | None) -> tuple[float, float] | None:
        if bounds is not None and bounds[0] > bounds[1]:
            raise ValueError(f"must be [lowest, highest], it was {list(bounds)}")
        return bounds
