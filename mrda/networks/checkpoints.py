"""Weights on disk: our own safetensors files, and the published state dicts with their key names.

safetensors is imported where it is used: the networks themselves need torch alone.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mrda.files import atomic_write
from mrda.networks.mln import MLN
from mrda.networks.mrda import MRDAStudent, MRDATeacher

Network = MLN | MRDATeacher | MRDAStudent
_NetworkClass = type[MLN] | type[MRDATeacher] | type[MRDAStudent]

_ARCHITECTURES: dict[str, _NetworkClass] = {
    "MLN": MLN,
    "MRDATeacher": MRDATeacher,
    "MRDAStudent": MRDAStudent,
}

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
_DEN_PREFIX = {MRDATeacher: "E.", MRDAStudent: "E_st."}

# What torch.load lets through from its parsers when a file is no checkpoint or is cut short.
_UNREADABLE = (
    OSError,
    RuntimeError,
    EOFError,
    pickle.UnpicklingError,
    struct.error,
    LookupError,
    AttributeError,
    TypeError,
    ValueError,
)


def save_network(network: Network, path: str | os.PathLike[str], **metadata: str) -> None:
    """Write the parameters of ``network`` as a flat safetensors file, whole or not at all.

    Args:
        network: The network; its class and hyperparameters go into the file's metadata.
        path: Where to write; a file there is replaced.
        **metadata: Further entries, e.g. ``stage="student"``.

    Raises:
        TypeError: ``network`` is not one of the three, or a metadata value is not a string.
        ValueError: A metadata key is taken (``architecture``, ``hyperparameters``).
    """
    _check_network(network)
    for key, value in metadata.items():
        if key in ("architecture", "hyperparameters"):
            raise ValueError(f"metadata key {key!r} is written by save_network itself")
        if not isinstance(value, str):
            raise TypeError(f"metadata {key!r} is {value!r}, but must be a string")
    from safetensors.torch import save

    entries = {
        **metadata,
        "architecture": type(network).__name__,
        "hyperparameters": json.dumps(network.hyperparameters),
    }
    tensors = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    with atomic_write(Path(path)) as temporary:
        temporary.write_bytes(save(tensors, entries))


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the metadata of a file that :func:`save_network` wrote.

    Raises:
        ValueError: The file cannot be read or is not a safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise ValueError(f"weights {os.fspath(path)} cannot be read: {_reason(error)}") from error


def load_network(path: str | os.PathLike[str], *, expect: type[nn.Module] | None = None) -> Network:
    """Rebuild the network that :func:`save_network` wrote, on the CPU and in float32.

    Args:
        path: The file.
        expect: The class it must hold; None accepts any.

    Raises:
        ValueError: The file cannot be read, was not written by :func:`save_network`, holds another class than
            ``expect``, or its tensors do not fit its hyperparameters.
    """
    from safetensors.torch import load_file

    name = f"weights {os.fspath(path)}"
    metadata = read_metadata(path)
    if "architecture" not in metadata or "hyperparameters" not in metadata:
        raise ValueError(f"{name} must name architecture and hyperparameters in the metadata, as save_network does")
    architecture = metadata["architecture"]
    if architecture not in _ARCHITECTURES:
        raise ValueError(f"{name} hold {architecture!r}, but must hold one of {', '.join(_ARCHITECTURES)}")
    if expect is not None and not issubclass(_ARCHITECTURES[architecture], expect):
        raise ValueError(f"{name} hold {architecture}, but must hold {expect.__name__}")
    try:
        network = _build(_ARCHITECTURES[architecture], json.loads(metadata["hyperparameters"]))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} have unusable hyperparameters: {_reason(error)}") from error
    tensors = load_file(path)
    _check_tensors(name, tensors, network.state_dict())
    network.load_state_dict(tensors)
    return network


def load_official(source: str | os.PathLike[str] | Mapping[str, Tensor]) -> Network:
    """Load a published state dict, on the CPU and in float32.

    Which network it is, its scale and its sizes are read from keys and shapes. What the keys do not tell is
    taken as in the released code: the mask is computed from F, and the dynamic convolution is followed by
    LeakyReLU.

    Args:
        source: A .pth or .pt file (read with ``weights_only=True``), a .safetensors file, or the state dict
            itself; ``module.`` in front of every key, left by multi-GPU training, is dropped.

    Raises:
        ValueError: The file cannot be read or holds anything but floating point tensors, its keys are those
            of no MRDA network, or a key is missing, extra, or of another shape than the rest implies; such
            keys are listed.
    """
    if isinstance(source, Mapping):
        name, state = "state dict", dict(source)
    else:
        name, state = f"weights {os.fspath(source)}", _read_tensors(source)
    for key, tensor in state.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(f"{name} has {key!r}: {kind}, but must hold floating point tensors by name only")
    if state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    architecture = _recognise(name, state)
    options = _infer_hyperparameters(name, state, architecture)
    try:
        network = _build(architecture, options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} has the shapes of an impossible network: {_reason(error)}") from error
    _check_tensors(name, state, to_official(network))
    if not isinstance(network, MLN):
        _check_mean_shift(name, state)
    network.load_state_dict({ours: state[theirs] for ours, theirs in _official_keys(network).items()})
    return network


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Return what a .pt or .pth file holds, on the CPU; only tensors and plain containers are let in.

    Raises:
        ValueError: The file cannot be read, is damaged, or holds anything else.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise ValueError(f"{os.fspath(path)} cannot be read: {_reason(error)}") from error


def to_official(network: Network) -> dict[str, Tensor]:
    """Return the state dict of ``network`` under its published key names: :func:`load_official` undone.

    Raises:
        TypeError: ``network`` is not one of the three.
        ValueError: A hyperparameter differs from the released code and leaves no trace in keys and shapes.
    """
    _check_network(network)
    options = network.hyperparameters
    for key, released in (
        ("mask_input", "F"),
        ("dyn_act", "lrelu"),
        ("rgb_range", 1.0),
    ):
        if options.get(key, released) != released:
            raise ValueError(f"the network has {key}={options[key]!r}, but official weights imply {released!r}")
    own = network.state_dict()
    state = {theirs: own[ours] for ours, theirs in _official_keys(network).items()}
    if not isinstance(network, MLN):
        mean = network.rdan.mean.flatten()
        identity = torch.eye(3, dtype=mean.dtype, device=mean.device).reshape(3, 3, 1, 1)
        state |= {"G.sub_mean.weight": identity, "G.sub_mean.bias": -mean}
        state |= {"G.add_mean.weight": identity.clone(), "G.add_mean.bias": mean.clone()}
    return state


def _official_keys(network: Network) -> dict[str, str]:
    """Map our names of the parameters of ``network`` to the published ones."""
    if isinstance(network, MLN):
        names: tuple[tuple[str, str], ...] = _MLN_NAMES
    else:
        prefix = _DEN_PREFIX[type(network)]
        names = (*_RDAN_NAMES, ("den.convs.", f"{prefix}E."), ("den.mlp.", f"{prefix}mlp."))
    keys = {}
    for ours in network.state_dict():
        theirs = ours
        for old, new in names:
            theirs = theirs.replace(old, new, 1)
        keys[ours] = theirs
    return keys


def _recognise(name: str, state: Mapping[str, Tensor]) -> _NetworkClass:
    prefixes = {key.split(".")[0] for key in state}
    if "G" in prefixes:
        if "E_st" in prefixes:
            return MRDAStudent
        if "E" in prefixes:
            return MRDATeacher
    elif {"head", "body", "tail"} <= prefixes:
        return MLN
    found = ", ".join(sorted(prefixes)[:8]) or "none"
    raise ValueError(
        f"{name} has keys under {found}, but must have them under head, body and tail (MLN), G and E (teacher) "
        "or G and E_st (student)"
    )


def _infer_hyperparameters(name: str, state: Mapping[str, Tensor], architecture: type[nn.Module]) -> dict[str, Any]:
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
    rda_conv = "G.body.0.body.0.da_conv1"
    den = "E_st." if architecture is MRDAStudent else "E."
    size("G.add_mean.bias", 0)
    options = {
        "scale": scale,
        "num_feat": num_feat,
        "num_blocks": count("G.body.0.body."),
        "kernel_size": math.isqrt(size(f"{rda_conv}.kernel.2.weight", 0) // num_feat),
        "mask_channels": size(f"{rda_conv}.conv.weight", 0),
        "den_width": size(f"{den}E.0.weight", 0),
        "rgb_mean": state["G.add_mean.bias"].flatten().tolist(),
    }
    if architecture is MRDATeacher:
        options["mln_feat"] = size("E.E.0.weight", 1)
    return options


def _build(architecture: _NetworkClass, options: dict[str, Any]) -> Network:
    """Build a network to be filled; its random initialisation must not move the caller's generator."""
    with torch.random.fork_rng(devices=[]):
        return architecture(**options)


def _check_network(network: object) -> None:
    if type(network) not in _ARCHITECTURES.values():
        raise TypeError(f"network is {type(network).__name__}, but must be one of {', '.join(_ARCHITECTURES)}")


def _check_tensors(name: str, got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise a ValueError that lists the keys in which ``got`` differs from ``expected``."""
    problems = {
        "missing": sorted(expected.keys() - got.keys()),
        "unexpected": sorted(got.keys() - expected.keys()),
        "of another shape": [
            f"{key} {tuple(got[key].shape)} instead of {tuple(tensor.shape)}"
            for key, tensor in expected.items()
            if key in got and got[key].shape != tensor.shape
        ],
    }
    found = [f"{kind}: {', '.join(keys)}" for kind, keys in problems.items() if keys]
    if found:
        raise ValueError(f"{name} must have exactly the network's keys; {'; '.join(found)}")


def _check_mean_shift(name: str, state: Mapping[str, Tensor]) -> None:
    """Raise unless the two fixed 1x1 convolutions subtract and add one mean colour, with unit deviation."""
    identity = torch.eye(3).reshape(3, 3, 1, 1)
    for key in ("G.sub_mean.weight", "G.add_mean.weight"):
        if not torch.equal(state[key].float().cpu(), identity):
            raise ValueError(f"{name} has {state[key].flatten().tolist()} in {key!r}, but must have the identity")
    if not torch.equal(state["G.sub_mean.bias"], -state["G.add_mean.bias"]):
        raise ValueError(f"{name} must have opposite values in 'G.sub_mean.bias' and 'G.add_mean.bias'")


def _read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    if Path(path).suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"weights {os.fspath(path)} cannot be read: {_reason(error)}") from error
    loaded = read_pickle(path)
    if not isinstance(loaded, dict):
        raise ValueError(f"weights {os.fspath(path)} hold {type(loaded).__name__}, but must hold a state dict")
    return loaded


def _reason(error: BaseException) -> str:
    """The first sentence of an error, without its full stop."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0].rstrip(".")
