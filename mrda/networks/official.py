# SPDX-License-Identifier: Apache-2.0
"""The published state dicts, with their key names: reading them into our networks, and back.

A published file is a plain state dict. Copies may have a wrapper, which trainers of other projects write, or `module.`
in front of the keys, which multi-GPU training leaves.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mrda.core.faults import reason
from mrda.core.weights_files import kind_of_weights
from mrda.networks import official_family as family
from mrda.networks.dasr import DASR
from mrda.networks.kdsr import KDSRStudent
from mrda.networks.mln import MLN
from mrda.networks.mrda import MRDAOracle, MRDAStudent, MRDATeacher
from mrda.networks.reading import read_pickle, read_safetensors
from mrda.networks.registry import Network, NetworkClass, build, check_network, check_tensors
from mrda.options.networks import DIV2K_RGB_MEAN

_log = logging.getLogger(__name__)

# Our names on the left, the published ones on the right; the first match of each line is replaced.
_MLN_NAMES = (("upscaler.expand.", "tail.0."), ("upscaler.last.", "tail.1."))
_RDAN_NAMES = (
    ("rdan.head.", "G.head.0."),
    ("rdan.compress.", "G.compress.0."),
    ("rdan.blocks.", "G.body.0.body."),
    ("rdan.body_tail.", "G.body.1."),
    ("rdan.upscaler.expand.", "G.tail.0."),
    ("rdan.upscaler.last.", "G.tail.1."),
    (".rda_conv", ".da_conv"),
    (".mask.", ".conv."),
)
# Upscaling convolutions, and by what the first one widens, for each scale.
_UPSCALER_STEPS = {2: (1, 4), 3: (1, 9), 4: (2, 4)}
_DEN_PREFIX: dict[NetworkClass, str] = {MRDATeacher: "E.", MRDAStudent: "E_st."}
_WRAPPERS = ("params_ema", "params", "state_dict")
_ROUNDING = 2**-20  # of a mean colour in float32, relative
_DEEPEST_WRAPPER = 4  # a limit, because a pickle can contain itself

# Options that official keys and shapes do not show, with their values in the released code.
_RELEASED = {"conv_type": "rda", "mask_input": "F", "dyn_act": "lrelu", "rgb_range": 1.0, "den_input": "features"}


def load_official(source: str | os.PathLike[str] | Mapping[str, Any]) -> Network:
    """Load a published state dict, on the CPU and in float32.

    The kind of network (MLN, teacher or student of MRDA, DASR, KDSR's student), its scale and its sizes are read from
    keys and shapes. Options that these do not show are those of the released code: the mask is computed from F, and
    LeakyReLU follows the dynamic convolution. Networks for images in [0, 255] take and give [0, 1] here.

    Args:
        source: A file or what it holds; see :func:`read_official`.

    Raises:
        ValueError: The file cannot be read or does not hold one state dict of floating point tensors, its keys are
            not those of such a network, or keys are missing, extra, or of another shape than the rest implies; such
            keys are listed.
    """
    name = _name(source)
    state = read_official(source)
    architecture = recognise(name, state)
    options = _infer_hyperparameters(name, state, architecture)
    try:
        network = build(architecture, options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} has the shapes of an impossible network: {reason(error)}") from error
    expected = to_official(network)
    check_tensors(name, state, {key: tensor for key, tensor in expected.items() if tensor.is_floating_point()})
    if isinstance(network, DASR | KDSRStudent):
        _check_constants(name, state, expected)
    elif not isinstance(network, MLN):
        _check_mean_shift(name, state)
    own = network.state_dict()
    keys = _official_keys(network).items()
    network.load_state_dict({ours: state[theirs].reshape(own[ours].shape) for ours, theirs in keys})
    return network


def read_official(source: str | os.PathLike[str] | Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a published state dict by their keys, without wrappers.

    Args:
        source: A .pth or .pt file (only tensors and plain containers are read), a .safetensors file, or the content of
            such a file: the state dict, or a dictionary that has it under ``params_ema``, ``params`` (the first if
            both are there) or ``state_dict``, up to four deep; other entries are ignored. ``module.`` in front of all
            keys is dropped. So is what inference with DASR does not use: ``num_batches_tracked``, ``E.encoder_k.*``,
            ``E.queue`` and ``E.queue_ptr``; the logger names them.

    Raises:
        ValueError: The file cannot be read, or does not hold one state dict of floating point tensors.
    """
    name = _name(source)
    if isinstance(source, Mapping):
        loaded: Any = source
    elif kind_of_weights(source) == "safetensors":
        loaded, _ = read_safetensors(source)
    else:
        loaded = read_pickle(source)
    state = _unwrap(name, loaded)
    if family.is_dasr(state) and (ignored := family.ignored_keys(state)):
        _log.info("%s: ignored, because only training uses them: %s", name, ", ".join(ignored))
        state = {key: tensor for key, tensor in state.items() if key not in ignored}
    for key, tensor in state.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(f"{name} has {key!r}: {kind}, but must hold floating point tensors by name only")
    return state


def to_official(network: Network) -> dict[str, Tensor]:
    """Return the state dict of ``network`` under its published key names: :func:`load_official` undone.

    Raises:
        TypeError: ``network`` is not one of the method's.
        ValueError: There are no published keys for such a network, or none that would show a hyperparameter.
    """
    check_network(network)
    if isinstance(network, MRDAOracle):
        raise ValueError("the network is MRDAOracle, which has no official key names")
    options = network.hyperparameters
    for key, released in _RELEASED.items():
        if options.get(key, released) != released:
            raise ValueError(f"the network has {key}={options[key]!r}, but official weights imply {released!r}")
    own = network.state_dict()
    state = {theirs: family.as_published(theirs, own[ours]) for ours, theirs in _official_keys(network).items()}
    if not isinstance(network, MLN):
        state |= _mean_shift(network.rdan.image_range * network.rdan.mean.flatten())
    return state | family.counters(network) if isinstance(network, DASR) else state


def unlabelled_to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of a student's state dict without metadata to the published ones.

    :func:`load_official` then reads scale and sizes from keys and shapes. Other options, the mean colour among them,
    are those of the released code.
    """
    official = {_official_key(key, MRDAStudent): tensor for key, tensor in state.items()}
    return official | _mean_shift(torch.tensor(DIV2K_RGB_MEAN))


def _name(source: str | os.PathLike[str] | Mapping[str, Any]) -> str:
    return "state dict" if isinstance(source, Mapping) else f"weights {os.fspath(source)}"


def _unwrap(name: str, loaded: Any) -> dict[str, Any]:
    """Remove wrappers and prefixes, outermost first."""
    for _ in range(_DEEPEST_WRAPPER + 1):
        if not isinstance(loaded, Mapping):
            raise ValueError(f"{name} hold {type(loaded).__name__}, but must hold a state dict")
        state = dict(loaded)
        while state and all(isinstance(key, str) and key.startswith("module.") for key in state):
            state = {key.removeprefix("module."): value for key, value in state.items()}
        wrappers = [key for key in _WRAPPERS if isinstance(state.get(key), Mapping)]
        if not wrappers:
            return state
        if "state_dict" in wrappers and len(wrappers) > 1:
            raise ValueError(f"{name} has both {wrappers[0]!r} and 'state_dict', but must have one state dict")
        loaded = state[wrappers[0]]
    raise ValueError(f"{name} has its state dict in more than {_DEEPEST_WRAPPER} nested wrappers")


def _official_keys(network: Network) -> dict[str, str]:
    """Map our names of the parameters of ``network`` to the published ones."""
    if isinstance(network, DASR | KDSRStudent):
        return {ours: family.official_key(ours, network) for ours in network.state_dict()}
    return {ours: _official_key(ours, type(network)) for ours in network.state_dict()}


def _official_key(ours: str, architecture: NetworkClass) -> str:
    if architecture is MLN:
        names: tuple[tuple[str, str], ...] = _MLN_NAMES
    else:
        prefix = _DEN_PREFIX[architecture]
        names = (*_RDAN_NAMES, ("den.convs.", f"{prefix}E."), ("den.mlp.", f"{prefix}mlp."))
    for old, new in names:
        ours = ours.replace(old, new, 1)
    return ours


def _mean_shift(mean: Tensor) -> dict[str, Tensor]:
    """Return the fixed 1x1 convolutions that subtract and add a mean colour (3,), by their published keys."""
    identity = torch.eye(3, dtype=mean.dtype, device=mean.device).reshape(3, 3, 1, 1)
    return {
        "G.sub_mean.weight": identity,
        "G.sub_mean.bias": -mean,
        "G.add_mean.weight": identity.clone(),
        "G.add_mean.bias": mean.clone(),
    }


def recognise(name: str, state: Mapping[str, Tensor]) -> NetworkClass:
    """Return the kind of network that has the published keys of ``state``, which messages call ``name``.

    Raises:
        ValueError: There is no such network.
    """
    prefixes = {key.split(".")[0] for key in state}
    if "G" in prefixes:
        if "E_st" in prefixes:
            return KDSRStudent if "E_st.compress.0.weight" in state else MRDAStudent
        if family.is_dasr(state):
            return DASR
        if "E.compress.0.weight" in state:
            raise ValueError(f"{name} hold a teacher of KDSR, which reads the HR image: give its student's weights")
        if "E" in prefixes:
            return MRDATeacher
    elif {"head", "body", "tail"} <= prefixes:
        return MLN
    found = ", ".join(sorted(prefixes)[:8]) or "none"
    raise ValueError(
        f"{name} hold another network: the keys begin with {found}, but must begin with head, body and tail (MLN), "
        "G and E (teacher, DASR) or G and E_st (student, KDSR)"
    )


def _infer_hyperparameters(name: str, state: Mapping[str, Tensor], architecture: NetworkClass) -> dict[str, Any]:
    def size(key: str, axis: int) -> int:
        if key not in state:
            raise ValueError(f"{name} misses the key {key!r}")
        if state[key].dim() <= axis or state[key].numel() == 0:
            raise ValueError(f"{name} has {key!r} of the impossible shape {tuple(state[key].shape)}")
        return state[key].shape[axis]

    def count(prefix: str) -> int:
        return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})

    trunk = "" if architecture is MLN else "G."
    num_feat = size(f"{trunk}head.0.weight", 0)
    steps = (count(f"{trunk}tail.0."), size(f"{trunk}tail.0.0.weight", 0) / num_feat)
    scale = next((scale for scale, known in _UPSCALER_STEPS.items() if steps == known), None)
    if scale is None:
        raise ValueError(
            f"{name} has an upscaler of {steps[0]} steps widening by {steps[1]:g}, but must have that of x2, x3 or x4"
        )
    if architecture is MLN:
        return {"scale": scale, "num_feat": num_feat, "num_body": count("body.")}
    if architecture is DASR or architecture is KDSRStudent:
        options = {"scale": scale, "num_feat": num_feat, **family.sizes(state, architecture)}
        return options | ({"den_width": size("E.encoder_q.E.0.weight", 0)} if architecture is DASR else {})
    rda_conv = "G.body.0.body.0.da_conv1"
    den = "E_st." if architecture is MRDAStudent else "E."
    size("G.add_mean.bias", 0)
    mean = state["G.add_mean.bias"].flatten()
    # the decimals that the float32 numbers were rounded from
    is_default = torch.equal(mean.float().cpu(), torch.tensor(DIV2K_RGB_MEAN, dtype=torch.float32))
    options = {
        "scale": scale,
        "num_feat": num_feat,
        "num_blocks": count("G.body.0.body."),
        "kernel_size": math.isqrt(size(f"{rda_conv}.kernel.2.weight", 0) // num_feat),
        "mask_channels": size(f"{rda_conv}.conv.weight", 0),
        "den_width": size(f"{den}E.0.weight", 0),
        "rgb_mean": list(DIV2K_RGB_MEAN) if is_default else mean.tolist(),
    }
    if architecture is MRDATeacher:
        options["mln_feat"] = size("E.E.0.weight", 1)
    return options


def _check_constants(name: str, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the fixed 1x1 convolutions are those of the published network, up to rounding."""
    for key in ("G.sub_mean.weight", "G.sub_mean.bias", "G.add_mean.weight", "G.add_mean.bias"):
        if not torch.allclose(state[key].double().cpu(), expected[key].double(), rtol=_ROUNDING, atol=0):
            found, wanted = state[key].flatten().tolist(), expected[key].flatten().tolist()
            raise ValueError(f"{name} has {found} in {key!r}, but must have {wanted}")


def _check_mean_shift(name: str, state: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the fixed 1x1 convolutions subtract and add one mean colour, with unit deviation."""
    identity = torch.eye(3).reshape(3, 3, 1, 1)
    for key in ("G.sub_mean.weight", "G.add_mean.weight"):
        if not torch.equal(state[key].float().cpu(), identity):
            raise ValueError(f"{name} has {state[key].flatten().tolist()} in {key!r}, but must have the identity")
    if not torch.equal(state["G.sub_mean.bias"], -state["G.add_mean.bias"]):
        raise ValueError(f"{name} must have opposite values in 'G.sub_mean.bias' and 'G.add_mean.bias'")
