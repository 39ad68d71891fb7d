# SPDX-License-Identifier: Apache-2.0
"""Reading configurations: YAML files of the user and those that ship with the package.

A file is a tree of the options of `mrda.config.TrainConfig`; options that it leaves out have the recommended values.
Its key ``extends`` may name other configurations, which it then changes. The presets ``paper`` and ``official`` are
trees as well: they hold the choices of the paper and of the released code where these differ from the recommended
ones. A file may have presets of its own: its key ``presets`` holds trees by name, and the chosen one is merged over it.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mrda.config import TrainConfig
from mrda.config.base import STAGES, option_paths
from mrda.config.names import FLAT_NAMES, nested, nested_path
from mrda.config.unused import check_used

Tree = dict[str, Any]

PRESETS = ("recommended", "paper", "official")
_PRESET_FOLDER = "preset"
_UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")
"""Pydantic's error types for an unknown key in a model and in a dataclass."""
_NO_SECTION = ("model_type", "dataclass_type")
"""Pydantic's error types for a value in place of a section."""


class _Loader(yaml.SafeLoader):
    """YAML whose only booleans are true and false, so that the key `on` and the value `no` are words."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def configs() -> dict[str, Traversable]:
    """Return names and files of the configurations that ship with the package, without the presets."""
    found = dict(_files(resources.files("mrda.config").joinpath("presets")))
    return {name: found[name] for name in sorted(found) if not name.startswith(f"{_PRESET_FOLDER}/")}


def descriptions() -> dict[str, str]:
    """Return names of the packaged configurations, and the first sentence of the comment that each begins with."""
    found = {}
    for name, file in configs().items():
        lines = takewhile(lambda line: line.startswith("#"), file.read_text(encoding="utf-8").splitlines())
        comment = " ".join(line.lstrip("# ") for line in lines)
        found[name] = comment.split(". ")[0].rstrip(".")
    return found


def load_config(
    name_or_path: str | Path,
    overrides: Iterable[str] = (),
    *,
    preset: str = "recommended",
    instead: Mapping[str, str | Path] | None = None,
    instead_overrides: Iterable[str] = (),
) -> TrainConfig:
    """Read a configuration over a preset, and apply overrides to it.

    Args:
        name_or_path: name of a configuration of the package (see `configs`) or path of a YAML file.
        overrides: assignments such as ``"teacher.steps=10"``; the value is read as YAML.
        preset: ``recommended``, ``paper`` or ``official``, or a preset of the configuration itself. The configuration
            takes precedence over the first three, and a preset of its own over the configuration; overrides over all.
        instead: replacements for configurations that are extended, by name; with ``{"classic-iso-x4": "demo"}``,
            ``ablation/s4`` is that row at the demo's size. A replacement may extend the name that it replaces, and
            then gets the original.
        instead_overrides: assignments to the replacements; configurations that extend them take precedence.

    Raises:
        ValueError: the name or the preset is unknown, a file is unreadable or not a YAML mapping, ``extends`` is not a
            name or a list of names, an override has no ``=``, has no effect beside another option or is replaced by
            another, a key is unknown (the nearest known one is named), or a value is not allowed.
    """
    tree: Tree = {}
    if preset in PRESETS[1:]:
        text = resources.files("mrda.config").joinpath("presets", _PRESET_FOLDER, f"{preset}.yaml").read_text("utf-8")
        tree = yaml.load(text, _Loader)
    below = list(instead_overrides)
    reader = _Reader(preset)
    replaced = {name: _assigned(reader.read(other), below) for name, other in (instead or {}).items()}
    tree = _merge(tree, reader.read(name_or_path, replaced))
    if preset not in (*PRESETS, *reader.presets):
        known = ", ".join(dict.fromkeys([*PRESETS, *reader.presets]))
        raise ValueError(f"preset is {preset!r}, but must be one of {known}")
    overrides = list(overrides)
    given = _paths(_assigned({}, overrides))
    for stage in STAGES:
        if f"{stage}.steps" in given and given.get("train.steps") is not None:
            raise ValueError(f"train.steps replaces {stage}.steps: set one of them")
    config = parse_config(_assigned(tree, overrides), given)
    check_used(config, given)
    return config


def parse_config(tree: Mapping[str, Any], kept: Collection[str] = ()) -> TrainConfig:
    """Validate a nested mapping of options.

    Args:
        tree: the options.
        kept: dotted paths of options that `train.steps` does not change.

    Raises:
        ValueError: a key is unknown, or a value is not allowed; the message names the first of these, unknown keys
            before values.
    """
    try:
        return TrainConfig.model_validate(tree).resized(kept)
    except ValidationError as error:
        problems = sorted(error.errors(), key=lambda problem: problem["type"] not in _UNKNOWN_KEY)
        location, kind = problems[0]["loc"], problems[0]["type"]
        path = ".".join(str(part) for part in location)
        subject = f"config key '{path}'" if path else "config"
        if kind in _UNKNOWN_KEY:
            raise ValueError(f"unknown config key '{path}'; did you mean '{_nearest(path)}'?") from None
        given = problems[0]["input"]
        if kind == "list_type":
            raise ValueError(f"{subject} must be a list, as in --set '{path}=[{given}]', it was {given!r}") from None
        if kind in _NO_SECTION:
            raise ValueError(f"{subject} must be a section of options, it was {given!r}") from None
        message = problems[0]["msg"].removeprefix("Value error, ")
        it_was = "" if kind == "value_error" else f", it was {given!r}"
        raise ValueError(f"{subject}: {message[0].lower()}{message[1:]}{it_was}") from None


def _merge(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> Tree:
    """Return a tree with changes merged over it, section by section; neither is modified."""
    merged = dict(tree)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


class _Reader:
    """Reads configurations over those that they extend, each with its own preset of the chosen name, if it has one."""

    def __init__(self, preset: str) -> None:
        self.preset = preset
        self.presets: list[str] = []
        """Names of the presets that the files have."""

    def read(
        self, name_or_path: str | Path, replaced: Mapping[str, Tree] | None = None, inside: tuple[str, ...] = ()
    ) -> Tree:
        """Read a configuration; ``replaced`` has trees to use in place of extended configurations, by their names."""
        name = str(name_or_path)
        if name in inside:
            raise ValueError(f"config '{name}' extends itself, by way of {' and '.join(inside)}")
        known = configs()
        if name in known:
            text = known[name].read_text(encoding="utf-8")
        elif os.path.isfile(name_or_path):
            text = _read(Path(name_or_path))
        else:
            raise ValueError(
                f"config '{name}' is neither a file nor one of the package's: {_similar(name, known)}"
                "`mrda train --list` shows them"
            )
        tree = _parse_yaml(text, f"config '{name}'")
        if not isinstance(tree, dict):
            raise ValueError(f"config '{name}' must be a YAML mapping of options, it was {tree!r}")
        given = tree.pop("extends", [])
        parents = [given] if isinstance(given, str) else given
        if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
            raise ValueError(f"config '{name}' must extend a name, a path or a list of them, it was {given!r}")
        presets = tree.pop("presets", {})
        if not isinstance(presets, dict) or not all(
            isinstance(key, str) and isinstance(changes, dict) for key, changes in presets.items()
        ):
            raise ValueError(f"presets of config '{name}' must be mappings of options by name, it was {presets!r}")
        self.presets += presets
        try:
            tree, own_preset = nested(tree), nested(presets.get(self.preset, {}))
        except ValueError as error:
            raise ValueError(f"config '{name}': {error}") from None
        whole: Tree = {}
        for parent in parents:
            replacement = None if replaced is None else replaced.get(parent)
            other = self.read(parent, replaced, (*inside, name)) if replacement is None else replacement
            whole = _merge(whole, other)
        return _merge(_merge(whole, tree), own_preset)


def _files(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _files(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".yaml"):
            yield prefix + entry.name.removesuffix(".yaml"), entry


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"config '{path}' is not UTF-8 text") from None
    except OSError as error:
        raise ValueError(f"config '{path}' can't be read: {error.strerror}") from None


def _parse_yaml(text: str, what: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2001-02-30
        raise ValueError(f"{what} is not valid YAML: {' '.join(str(error).split())}") from None


def _assigned(tree: Tree, overrides: Iterable[str]) -> Tree:
    """Apply assignments to a tree in place, and return it."""
    for override in overrides:
        _assign(tree, override)
    return tree


def _paths(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of a tree by their dotted paths."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= _paths(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _assign(tree: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ValueError(f"override '{override}' must look like 'section.key=value'")
    *sections, key = nested_path(keys)
    for name in sections:
        if not isinstance(tree.get(name), dict):
            tree[name] = {}
        tree = tree[name]
    value = _parse_yaml(text, f"the value of override '{override}'")
    tree[key] = value if sections else nested({key: value})[key]


def _similar(name: str, known: Iterable[str]) -> str:
    """Return a question that names the known names closest to an unknown one, or nothing if none is close."""
    close = difflib.get_close_matches(name, known, n=2)
    return f"did you mean {' or '.join(map(repr, close))}? " if close else ""


def _nearest(path: str) -> str:
    """Return the known dotted path closest to an unknown one: in its own section if that exists, otherwise anywhere."""
    known = [*option_paths(TrainConfig), *FLAT_NAMES]
    section, _, key = path.rpartition(".")
    siblings = [other for other in known if other.rpartition(".")[0] == section]
    close = difflib.get_close_matches(path, siblings, n=1) or [
        other for other in known if other.rpartition(".")[2] == key
    ]
    return close[0] if close else difflib.get_close_matches(path, known, n=1, cutoff=0.0)[0]
