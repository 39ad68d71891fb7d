"""Random weights in the form of torchvision's published VGG files, which no test has."""

import hashlib

import torch

from mrda.networks import vgg

# Torchvision's lists of layers: widths of 3x3 convolutions, each followed by ReLU, and M for max pooling by 2.
LISTS = {
    "vgg16": [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"],
    "vgg19": [64, 64, "M", 128, 128, "M", *[256] * 4, "M", *[512] * 4, "M", *[512] * 4, "M"],
}


def random_state(depth, seed=0):
    """The tensors of the file: convolutions that keep the size of what they see, and a bit of a classifier."""
    generator = torch.Generator().manual_seed(seed)
    state, index, channels = {}, 0, 3
    for width in LISTS[depth]:
        if width == "M":
            index += 1
            continue
        bound = (6 / (9 * channels)) ** 0.5
        state[f"features.{index}.weight"] = torch.empty(width, channels, 3, 3).uniform_(
            -bound, bound, generator=generator
        )
        state[f"features.{index}.bias"] = torch.empty(width).uniform_(-0.1, 0.1, generator=generator)
        index, channels = index + 2, width
    return {**state, "classifier.0.weight": torch.ones(2, 2), "classifier.0.bias": torch.ones(2)}


def plain_features(depth, state, x, indices):
    """The outputs of the layers of these numbers in torchvision's ``features``, in the dtype of ``x``."""
    found, index = {}, 0
    for width in LISTS[depth]:
        if index > max(indices):
            break
        if width == "M":
            x = torch.nn.functional.max_pool2d(x, kernel_size=2, stride=2)
        else:
            weight, bias = (state[f"features.{index}.{kind}"].to(x.dtype) for kind in ("weight", "bias"))
            x = torch.nn.functional.conv2d(x, weight, bias, padding=1)
            found[index] = x
            index, x = index + 1, x.clamp(min=0)
        found[index] = x
        index += 1
    return [found[index] for index in indices]


def linear_state():
    """The tensors of LPIPS's linear weights on VGG16."""
    generator = torch.Generator().manual_seed(1)
    return {
        f"lin{index}.model.1.weight": torch.rand(1, channels, 1, 1, generator=generator)
        for index, channels in enumerate((64, 128, 256, 512, 512))
    }


def write(folder, depth, state):
    """Write the file under its published name; returns its path and what its SHA-256 begins with."""
    path = folder / vgg.VGG_WEIGHTS[depth].name
    torch.save(state, path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()[:8]


def publish(monkeypatch, depth, checksum):
    """Have a file of this checksum pass for the published one."""
    monkeypatch.setitem(vgg.VGG_WEIGHTS, depth, vgg.VGG_WEIGHTS[depth]._replace(sha256=checksum))
