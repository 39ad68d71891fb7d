"""DASR and KDSR as plain functions of their published state dicts: the oracle for ours.

Written from the description of the published networks alone, layer by layer, with the published key names and image
ranges; it shares no code with `mrda.networks`.
"""

import torch
import torch.nn.functional as F

MEAN = (0.4488, 0.4371, 0.4040)


def lrelu(x):
    return F.leaky_relu(x, 0.1)


def conv(state, key, x, stride=1):
    return F.conv2d(x, state[f"{key}.weight"], state[f"{key}.bias"], stride=stride, padding=1)


def linear(state, key, x):
    bias = state.get(f"{key}.bias")
    out = x @ state[f"{key}.weight"].T
    return out if bias is None else out + bias


def dynamic(state, key, x, d):
    """One sample and one channel at a time: number 9c + 3i + j of the prediction is tap (i, j) of channel c."""
    kernels = lrelu(d @ state[f"{key}.kernel.0.weight"].T) @ state[f"{key}.kernel.2.weight"].T
    out = torch.zeros_like(x)
    height, width = x.shape[2:]
    padded = F.pad(x, (1, 1, 1, 1))
    for b in range(x.shape[0]):
        for c in range(x.shape[1]):
            for i in range(3):
                for j in range(3):
                    out[b, c] += kernels[b, 9 * c + 3 * i + j] * padded[b, c, i : i + height, j : j + width]
    return out


def mean_colour(x, image_range):
    return image_range * torch.tensor(MEAN, dtype=x.dtype).reshape(1, 3, 1, 1)


def shuffle(x, r):
    """Input channel c r^2 + r i + j goes to pixel (i, j) of channel c."""
    batch, channels, height, width = x.shape
    out = x.new_empty(batch, channels // r**2, r * height, r * width)
    for i in range(r):
        for j in range(r):
            out[:, :, i::r, j::r] = x[:, r * i + j :: r * r]
    return out


def upscale(state, x, scale):
    if scale == 3:
        x = shuffle(conv(state, "G.tail.0.0", x), 3)
    else:
        x = shuffle(conv(state, "G.tail.0.0", x), 2)
        if scale == 4:
            x = shuffle(conv(state, "G.tail.0.2", x), 2)
    return conv(state, "G.tail.1", x)


# ---- DASR, images in [0, 255] ----------------------------------------------------------------------------------------


def dasr_encoder(state, lr):
    x = lr
    for place, stride in ((0, 1), (3, 1), (6, 2), (9, 1), (12, 2), (15, 1)):
        x = conv(state, f"E.encoder_q.E.{place}", x, stride)
        key = f"E.encoder_q.E.{place + 1}"
        mean, var, weight, bias = (
            state[f"{key}.{name}"][:, None, None] for name in ("running_mean", "running_var", "weight", "bias")
        )
        x = lrelu((x - mean) / (var + 1e-5).sqrt() * weight + bias)
    return x.mean(dim=(2, 3))


def da_conv(state, key, x, d):
    u = lrelu(dynamic(state, key, x, d))
    u = F.conv2d(u, state[f"{key}.conv.weight"], state[f"{key}.conv.bias"])
    a = lrelu(F.conv2d(d[:, :, None, None], state[f"{key}.ca.conv_du.0.weight"]))
    return u + x * torch.sigmoid(F.conv2d(a, state[f"{key}.ca.conv_du.2.weight"]))


def dasr(state, lr, scale, groups=5, blocks=5):
    d = lrelu(dasr_encoder(state, lr) @ state["G.compress.0.weight"].T)
    first = conv(state, "G.head.0", lr - mean_colour(lr, 255))
    r = first
    for g in range(groups):
        group = r
        for b in range(blocks):
            block, key = r, f"G.body.{g}.body.{b}"
            t = lrelu(da_conv(state, f"{key}.da_conv1", block, d))
            t = lrelu(conv(state, f"{key}.conv1", t))
            t = lrelu(da_conv(state, f"{key}.da_conv2", t, d))
            r = conv(state, f"{key}.conv2", t) + block
        r = conv(state, f"G.body.{g}.body.{blocks}", r) + group
    r = conv(state, f"G.body.{groups}", r) + first
    return upscale(state, r, scale) + mean_colour(lr, 255)


def dasr_shapes(scale, c=64, groups=5, blocks=5, w=64):
    """The shapes of a published file, without what only training uses but with the counters."""
    shapes = {f"G.{shift}_mean.{name}": (3, 3, 1, 1) if name == "weight" else (3,) for shift, name in _SHIFTS}
    shapes |= {"G.compress.0.weight": (c, 4 * w)} | _conv("G.head.0", 3, c)
    for g in range(groups):
        for b in range(blocks):
            key = f"G.body.{g}.body.{b}"
            for n in (1, 2):
                shapes |= {
                    f"{key}.da_conv{n}.kernel.0.weight": (c, c),
                    f"{key}.da_conv{n}.kernel.2.weight": (9 * c, c),
                    f"{key}.da_conv{n}.conv.weight": (c, c, 1, 1),
                    f"{key}.da_conv{n}.conv.bias": (c,),
                    f"{key}.da_conv{n}.ca.conv_du.0.weight": (c // 8, c, 1, 1),
                    f"{key}.da_conv{n}.ca.conv_du.2.weight": (c, c // 8, 1, 1),
                    **_conv(f"{key}.conv{n}", c, c),
                }
        shapes |= _conv(f"G.body.{g}.body.{blocks}", c, c)
    shapes |= _conv(f"G.body.{groups}", c, c) | _tail(c, scale)
    before = 3
    for place, width in zip((0, 3, 6, 9, 12, 15), (w, w, 2 * w, 2 * w, 4 * w, 4 * w), strict=True):
        shapes |= _conv(f"E.encoder_q.E.{place}", before, width)
        names = ("weight", "bias", "running_mean", "running_var")
        shapes |= {f"E.encoder_q.E.{place + 1}.{name}": (width,) for name in names}
        shapes[f"E.encoder_q.E.{place + 1}.num_batches_tracked"] = ()
        before = width
    for place in (0, 2):
        shapes |= {f"E.encoder_q.mlp.{place}.weight": (4 * w, 4 * w), f"E.encoder_q.mlp.{place}.bias": (4 * w,)}
    return shapes


def with_training_parts(state):
    """Add what a trainer's file has besides: the momentum encoder and the queue."""
    copies = {key.replace("encoder_q", "encoder_k"): tensor for key, tensor in state.items() if "encoder_q" in key}
    return state | copies | {"E.queue": torch.zeros(256, 8192), "E.queue_ptr": torch.zeros(1, dtype=torch.int64)}


# ---- KDSR, images in [0, 1] ------------------------------------------------------------------------------------------


def kdsr_encoder(state, lr, blocks):
    """v, the vector that is distilled."""
    x = lrelu(conv(state, "E_st.E.0", lr))
    for i in range(2, blocks + 2):
        x = x + conv(state, f"E_st.E.{i}.body.2", lrelu(conv(state, f"E_st.E.{i}.body.0", x)))
    for i in (blocks + 2, blocks + 4, blocks + 6):
        x = lrelu(conv(state, f"E_st.E.{i}", x))
    x = x.mean(dim=(2, 3))
    return lrelu(linear(state, "E_st.mlp.2", lrelu(linear(state, "E_st.mlp.0", x))))


def kdsr(state, lr, scale, blocks, encoder_blocks):
    d = lrelu(linear(state, "E_st.compress.0", kdsr_encoder(state, lr, encoder_blocks)))
    first = conv(state, "G.head.0", lr - mean_colour(lr, 1))
    r = first
    for i in range(blocks):
        key = f"G.body.0.body.{i}"
        r = conv(state, f"{key}.conv1", lrelu(dynamic(state, f"{key}.da_conv1", r, d))) + r
    r = conv(state, "G.body.1", r) + first
    return upscale(state, r, scale) + mean_colour(lr, 1)


def kdsr_shapes(scale, c=64, blocks=53, encoder_blocks=9):
    shapes = {f"G.{shift}_mean.{name}": (3, 3, 1, 1) if name == "weight" else (3,) for shift, name in _SHIFTS}
    shapes |= _conv("G.head.0", 3, c) | _conv("G.body.1", c, c) | _tail(c, scale) | _conv("E_st.E.0", 3, c)
    for i in range(blocks):
        key = f"G.body.0.body.{i}"
        shapes |= {f"{key}.da_conv1.kernel.0.weight": (c, c), f"{key}.da_conv1.kernel.2.weight": (9 * c, c)}
        shapes |= _conv(f"{key}.conv1", c, c)
    for i in range(2, encoder_blocks + 2):
        shapes |= _conv(f"E_st.E.{i}.body.0", c, c) | _conv(f"E_st.E.{i}.body.2", c, c)
    for i, (before, after) in zip((2, 4, 6), ((c, 2 * c), (2 * c, 2 * c), (2 * c, 4 * c)), strict=True):
        shapes |= _conv(f"E_st.E.{encoder_blocks + i}", before, after)
    for key, width in (("mlp.0", 4 * c), ("mlp.2", 4 * c), ("compress.0", c)):
        shapes |= {f"E_st.{key}.weight": (width, 4 * c), f"E_st.{key}.bias": (width,)}
    return shapes


# ---- state dicts -----------------------------------------------------------------------------------------------------

_SHIFTS = [(shift, name) for shift in ("sub", "add") for name in ("weight", "bias")]


def _conv(key, before, after):
    return {f"{key}.weight": (after, before, 3, 3), f"{key}.bias": (after,)}


def _tail(c, scale):
    shapes = _conv("G.tail.0.0", c, (9 if scale == 3 else 4) * c) | _conv("G.tail.1", c, 3)
    return shapes | (_conv("G.tail.0.2", c, 4 * c) if scale == 4 else {})


def random_state(shapes, image_range):
    """Weights that keep signals at their size, and statistics of BatchNorm that are not the initial ones."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, shape in shapes.items():
        fan = max(1, torch.Size(shape[1:]).numel())
        state[key] = torch.randn(shape, generator=generator) / fan**0.5
        if key.endswith("running_var"):
            state[key] = 0.5 + torch.rand(shape, generator=generator)
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(1000)
    mean = image_range * torch.tensor(MEAN)
    for shift, sign in (("sub", -1), ("add", 1)):
        state[f"G.{shift}_mean.weight"] = torch.eye(3).reshape(3, 3, 1, 1)
        state[f"G.{shift}_mean.bias"] = sign * mean
    return state
