# SPDX-License-Identifier: Apache-2.0
"""Flat names of the options of the section `real`, which configurations and recipes had before its two rounds.

They are Real-ESRGAN's: ``real.jpeg_range`` is ``real.first.jpeg_range``, ``real.jpeg_range2`` is
``real.second.jpeg_range``. All files may have them when they are read; files are written with the nested names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from mrda.options.real import RoundOptions

_SECTION = "real"
_SUFFIXES = {"first": "", "second": "2"}
"""Suffix of the flat names of each round."""
_NESTED = {
    f"{field.name}{suffix}": (part, field.name) for part, suffix in _SUFFIXES.items() for field in fields(RoundOptions)
}

FLAT_NAMES = tuple(f"{_SECTION}.{name}" for name in _NESTED)
"""Flat names, as dotted paths."""

_FINGERPRINT_ORDER = (
    *("type", "kernel", "kernel_size", "sigma_range", "theta_range", "aniso_param", "noise_range", "per"),
    *("downsample", "border", "lr_up_from"),
)


def nested_path(keys: Sequence[str]) -> tuple[str, ...]:
    """Return the path of an option; a flat name in it, as in ("real", "jpeg_range2"), is replaced."""
    if len(keys) > 1 and keys[0] == _SECTION and keys[1] in _NESTED:
        return (keys[0], *_NESTED[keys[1]], *keys[2:])
    return tuple(keys)


def nested_key(key: str) -> str:
    """Return the dotted path of an option; a flat name in it, as in "real.jpeg_range2", is replaced."""
    return ".".join(nested_path(key.split(".")))


def nested(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree of options; flat names in it are replaced.

    Raises:
        ValueError: an option is given under both names.
    """
    return {key: nested_section(value) if key == _SECTION else value for key, value in tree.items()}


def nested_section(section: Any) -> Any:
    """Return the value of the key ``real`` of a configuration; flat names in it are replaced.

    Raises:
        ValueError: an option is given under both names.
    """
    if not isinstance(section, Mapping):  # validation reports it
        return section
    found = {name: value for name, value in section.items() if name not in _NESTED}
    for name in section:
        if name not in _NESTED:
            continue
        part, option = _NESTED[name]
        options = found.get(part, {})
        if not isinstance(options, Mapping):  # validation reports it
            continue
        if option in options:
            raise ValueError(f"{_SECTION}.{name} and {_SECTION}.{part}.{option} are the same option: give one of them")
        found[part] = {**options, option: section[name]}
    return found


def fingerprint_tree(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a dumped configuration in the form that fingerprints are computed from.

    Its sections `degradation` and `real` have the names and the order of options that they had before they were
    dataclasses, so that a checkpoint of an earlier version keeps its best validation.
    """
    flat: dict[str, Any] = {}
    for name, value in tree[_SECTION].items():
        options = value if name in _SUFFIXES else {name: value}
        flat |= {f"{option}{_SUFFIXES.get(name, '')}": item for option, item in options.items()}
    degradation = {name: tree["degradation"][name] for name in _FINGERPRINT_ORDER}
    return {**tree, "degradation": degradation, _SECTION: flat}
