"""Other ways to compute `mrda_kernels.rda_conv2d` in PyTorch, to compare its speed with.

All take input (B, C, H, W), weight (B, C, K, K), mask_weight (M, C, 1, 1) and mask_bias (M,), and compute in
the dtype of their arguments. They check nothing.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def released(
    input: Tensor, weight: Tensor, mask_weight: Tensor, mask_bias: Tensor, negative_slope: float = 0.1
) -> Tensor:
    """The way of the paper's released network: samples and channels as groups of one conv2d, then op by op.

    A channels_last batch of two or more samples has to be copied to NCHW for that. The LeakyReLU works in
    place, as in the released network.
    """
    batch, channels, height, width = input.shape
    size = weight.shape[-1]
    planes = input.reshape(1, batch * channels, height, width)
    filters = weight.reshape(batch * channels, 1, size, size)
    features = F.conv2d(planes, filters, padding=size // 2, groups=batch * channels)
    features = F.leaky_relu(features, negative_slope, inplace=True).reshape(input.shape)
    return features * _modulation(input, mask_weight, mask_bias) + input


def shift_add(
    input: Tensor, weight: Tensor, mask_weight: Tensor, mask_bias: Tensor, negative_slope: float = 0.1
) -> Tensor:
    """The dynamic convolution as a sum of K * K shifted products, which a compiler can fuse."""
    height, width = input.shape[-2:]
    size = weight.shape[-1]
    padded = F.pad(input, [size // 2] * 4)
    features = torch.zeros_like(input)
    for row in range(size):
        for column in range(size):
            shifted = padded[..., row : row + height, column : column + width]
            features = features + shifted * weight[:, :, row, column, None, None]
    features = F.leaky_relu(features, negative_slope)
    return features * _modulation(input, mask_weight, mask_bias) + input


def vmapped(
    input: Tensor, weight: Tensor, mask_weight: Tensor, mask_bias: Tensor, negative_slope: float = 0.1
) -> Tensor:
    """torch.vmap of one sample's depthwise convolution, over the samples."""
    channels, size = weight.shape[1], weight.shape[-1]

    def depthwise(x: Tensor, filters: Tensor) -> Tensor:
        return F.conv2d(x[None], filters[:, None], padding=size // 2, groups=channels)[0]

    features = F.leaky_relu(torch.vmap(depthwise)(input, weight), negative_slope)
    return features * _modulation(input, mask_weight, mask_bias) + input


def _modulation(input: Tensor, mask_weight: Tensor, mask_bias: Tensor) -> Tensor:
    return torch.sigmoid(F.conv2d(input, mask_weight, mask_bias))
