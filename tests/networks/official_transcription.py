"""The published networks as plain functions of their state dicts: the oracle for ours.

Written from the method's description alone, layer by layer, with the published key names; it shares no code
with `mrda.networks`.
"""

import torch
import torch.nn.functional as F


def lrelu(x):
    return F.leaky_relu(x, 0.1)


def conv(state, key, x, stride=1):
    return F.conv2d(x, state[f"{key}.weight"], state[f"{key}.bias"], stride=stride, padding=1)


def upscale(state, prefix, x, scale):
    if scale == 3:
        x = F.pixel_shuffle(conv(state, f"{prefix}tail.0.0", x), 3)
    else:
        x = F.pixel_shuffle(conv(state, f"{prefix}tail.0.0", x), 2)
        if scale == 4:
            x = F.pixel_shuffle(conv(state, f"{prefix}tail.0.2", x), 2)
    return conv(state, f"{prefix}tail.1", x)


def mln_features(state, lr):
    x = lrelu(conv(state, "head.0", lr))
    for i in (0, 2, 4, 6, 8, 10):
        x = lrelu(conv(state, f"body.{i}", x))
    return x


def mln(state, lr, lr_up, scale):
    return upscale(state, "", mln_features(state, lr), scale) + lr_up


def den(state, prefix, x):
    for i, stride in ((0, 1), (2, 1), (4, 2), (6, 1), (8, 2), (10, 1)):
        x = lrelu(conv(state, f"{prefix}.E.{i}", x, stride))
    x = F.adaptive_avg_pool2d(x, 1).flatten(1)
    x = lrelu(x @ state[f"{prefix}.mlp.0.weight"].T + state[f"{prefix}.mlp.0.bias"])
    return x @ state[f"{prefix}.mlp.2.weight"].T + state[f"{prefix}.mlp.2.bias"]


def rda_conv(state, key, x, d):
    """One sample and one channel at a time, by the definition."""
    kernels = lrelu(d @ state[f"{key}.kernel.0.weight"].T) @ state[f"{key}.kernel.2.weight"].T
    channels = x.shape[1]
    side = int((kernels.shape[1] // channels) ** 0.5)
    out = torch.empty_like(x)
    for b in range(x.shape[0]):
        mask = torch.sigmoid(F.conv2d(x[b : b + 1], state[f"{key}.conv.weight"], state[f"{key}.conv.bias"])).expand(
            1, channels, -1, -1
        )
        for c in range(channels):
            kernel = kernels[b, side * side * c : side * side * (c + 1)].reshape(1, 1, side, side)
            convolved = F.conv2d(x[b : b + 1, c : c + 1], kernel, padding=side // 2)
            out[b, c] = mask[0, c] * lrelu(convolved)[0, 0] + x[b, c]
    return out


def rdan(state, lr, raw_idr, scale):
    d = lrelu(raw_idr @ state["G.compress.0.weight"].T)
    x = F.conv2d(lr, state["G.sub_mean.weight"], state["G.sub_mean.bias"])
    x0 = conv(state, "G.head.0", x)
    r = x0
    blocks = len({key.split(".")[4] for key in state if key.startswith("G.body.0.body.")})
    for i in range(blocks):
        key = f"G.body.0.body.{i}"
        a = lrelu(rda_conv(state, f"{key}.da_conv1", r, d))
        a = lrelu(conv(state, f"{key}.conv1", a))
        a = lrelu(rda_conv(state, f"{key}.da_conv2", a, d))
        r = conv(state, f"{key}.conv2", a) + r
    y = upscale(state, "G.", conv(state, "G.body.1", r) + x0, scale)
    return F.conv2d(y, state["G.add_mean.weight"], state["G.add_mean.bias"])


def student(state, lr, scale):
    return rdan(state, lr, den(state, "E_st", lr), scale)


def teacher(state, lr, features, scale):
    return rdan(state, lr, den(state, "E", features), scale)


def official_shapes(kind, scale, *, feat=64, blocks=27, width=64, mln_feat=128, kernel=3, mask=1):
    """Key to shape, as published, for kind "mln", "student" or "teacher"."""
    shapes = {}

    def conv_keys(key, out_channels, in_channels):
        shapes[f"{key}.weight"] = (out_channels, in_channels, 3, 3)
        shapes[f"{key}.bias"] = (out_channels,)

    prefix, channels = ("", mln_feat) if kind == "mln" else ("G.", feat)
    conv_keys(f"{prefix}head.0", channels, 3)
    conv_keys(f"{prefix}tail.0.0", channels * (9 if scale == 3 else 4), channels)
    if scale == 4:
        conv_keys(f"{prefix}tail.0.2", channels * 4, channels)
    conv_keys(f"{prefix}tail.1", 3, channels)
    if kind == "mln":
        for i in (0, 2, 4, 6, 8, 10):
            conv_keys(f"body.{i}", channels, channels)
        return shapes
    for name in ("sub_mean", "add_mean"):
        shapes[f"G.{name}.weight"] = (3, 3, 1, 1)
        shapes[f"G.{name}.bias"] = (3,)
    shapes["G.compress.0.weight"] = (feat, 4 * width)
    for i in range(blocks):
        for j in (1, 2):
            key = f"G.body.0.body.{i}.da_conv{j}"
            shapes[f"{key}.kernel.0.weight"] = (feat, feat)
            shapes[f"{key}.kernel.2.weight"] = (feat * kernel * kernel, feat)
            shapes[f"{key}.conv.weight"] = (mask, feat, 1, 1)
            shapes[f"{key}.conv.bias"] = (mask,)
            conv_keys(f"G.body.0.body.{i}.conv{j}", feat, feat)
    conv_keys("G.body.1", feat, feat)
    den_prefix, in_channels = ("E_st", 3) if kind == "student" else ("E", mln_feat)
    for i, out_channels in (
        (0, width),
        (2, width),
        (4, 2 * width),
        (6, 2 * width),
        (8, 4 * width),
        (10, 4 * width),
    ):
        conv_keys(f"{den_prefix}.E.{i}", out_channels, in_channels)
        in_channels = out_channels
    for i in (0, 2):
        shapes[f"{den_prefix}.mlp.{i}.weight"] = (4 * width, 4 * width)
        shapes[f"{den_prefix}.mlp.{i}.bias"] = (4 * width,)
    return shapes


STEERING = (".E.", ".mlp.", ".compress.", ".da_conv")


def official_state(kind, scale, seed=0, steering=1.0, **sizes):
    """Random weights of natural scale (uniform, bounded by 1/sqrt(fan in)) under the published keys.

    What leads from the degradation to the kernels and masks is `steering` times that. With sqrt(6) the signal keeps its
    variance on the way (He), so that the output depends on the degradation as a trained network's does.
    """
    generator = torch.Generator().manual_seed(seed)
    shapes = official_shapes(kind, scale, **sizes)
    state = {}
    for key, shape in shapes.items():
        fan_shape = shapes.get(key.replace(".bias", ".weight"), shape)
        bound = torch.Size(fan_shape[1:]).numel() ** -0.5
        bound *= steering if any(part in key for part in STEERING) else 1
        state[key] = (2 * torch.rand(shape, generator=generator) - 1) * bound
    if kind != "mln":
        mean = torch.tensor([0.4488, 0.4371, 0.4040])
        for name, sign in (("sub_mean", -1), ("add_mean", 1)):
            state[f"G.{name}.weight"] = torch.eye(3).reshape(3, 3, 1, 1)
            state[f"G.{name}.bias"] = sign * mean
    return state
