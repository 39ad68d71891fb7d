"""Configurations as YAML files: those that ship with the package, and how any is read.

A file is a tree of the options of `mrda.config.TrainConfig`; what it leaves out has the recommended value. Its key
``extends`` may name other configurations, which it then changes. The presets ``paper`` and ``official`` are such
trees too: they hold the choices of the paper and of the released code where these differ from what is recommended. A
file's own key ``presets`` holds trees by name, which that preset lays over it.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mrda.config import Section, TrainConfig

Tree = dict[str, Any]

PRESETS = ("recommended", "paper", "official")
_PRESET_FOLDER = "preset"


def configs() -> dict[str, Traversable]:
    """Names and files of the configurations that ship with the package, presets not among them."""
    found = dict(_files(resources.files("mrda.config").joinpath("presets")))
    return {name: found[name] for name in sorted(found) if not name.startswith(f"{_PRESET_FOLDER}/")}


def load_config(
    name_or_path: str | Path,
    overrides: Iterable[str] = (),
    *,
    preset: str = "recommended",
    instead: Mapping[str, str | Path] | None = None,
    instead_overrides: Iterable[str] = (),
) -> TrainConfig:
    """Read a configuration, and apply a preset below it and overrides above it.

    Args:
        name_or_path: name of a configuration of the package (see `configs`) or path of a YAML file.
        overrides: assignments such as ``"teacher.steps=10"``; the value is read as YAML.
        preset: ``recommended``, ``paper`` or ``official``, or one that the configuration itself has. Wherever the
            configuration says something, that holds, unless its own ``presets`` say otherwise.
        instead: names or paths to read in the place of names that are extended; ``{"classic-iso-x4": "demo"}`` with
            ``ablation/s4`` is that row at the demo's size. What is read so may itself extend such a name, and then
            means that one.
        instead_overrides: assignments to what is read so; what extends it holds against them.

    Raises:
        ValueError: for an unknown name or preset, a file that is unreadable or no YAML mapping, names to extend that
            are none, an override without ``=``, an unknown key (the nearest known one is named) or a value that its
            field does not allow.
    """
    tree: Tree = {}
    if preset in PRESETS[1:]:
        text = resources.files("mrda.config").joinpath("presets", _PRESET_FOLDER, f"{preset}.yaml").read_text("utf-8")
        tree = yaml.safe_load(text)
    below = list(instead_overrides)
    reader = _Reader(preset)
    replaced = {name: _assigned(reader.read(other), below) for name, other in (instead or {}).items()}
    tree = _merge(tree, reader.read(name_or_path, replaced))
    if preset not in (*PRESETS, *reader.presets):
        known = ", ".join(dict.fromkeys([*PRESETS, *reader.presets]))
        raise ValueError(f"preset is {preset!r}, but must be one of {known}")
    return parse_config(_assigned(tree, overrides))


def parse_config(tree: Mapping[str, Any]) -> TrainConfig:
    """Validate a nested mapping of options.

    Raises:
        ValueError: one sentence on the first thing that is wrong; unknown keys come first.
    """
    try:
        return TrainConfig.model_validate(tree).resized()
    except ValidationError as error:
        problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
        location, kind = problems[0]["loc"], problems[0]["type"]
        path = ".".join(str(part) for part in location)
        subject = f"config key '{path}'" if path else "config"
        if kind == "extra_forbidden":
            raise ValueError(f"unknown config key '{path}'; did you mean '{_nearest(path)}'?") from None
        message = problems[0]["msg"].removeprefix("Value error, ")
        given = "" if kind == "value_error" else f", it was {problems[0]['input']!r}"
        raise ValueError(f"{subject}: {message[0].lower()}{message[1:]}{given}") from None


def _merge(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> Tree:
    """A tree with changes laid over it, section by section; neither is modified."""
    merged = dict(tree)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


class _Reader:
    """Reads configurations over all that they extend; a preset of theirs goes over each that has one of that name."""

    def __init__(self, preset: str) -> None:
        self.preset = preset
        self.presets: list[str] = []
        """Names of the presets that were met in the files."""

    def read(
        self, name_or_path: str | Path, replaced: Mapping[str, Tree] | None = None, inside: tuple[str, ...] = ()
    ) -> Tree:
        """Read one; ``replaced`` has the trees of what shall not be read by its name."""
        name = str(name_or_path)
        if name in inside:
            raise ValueError(f"config '{name}' extends itself, by way of {' and '.join(inside)}")
        known = configs()
        if name in known:
            text = known[name].read_text(encoding="utf-8")
        elif os.path.isfile(name_or_path):
            text = _read(Path(name_or_path))
        else:
            raise ValueError(f"config '{name}' must be a file or one of {', '.join(known)}")
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
        whole: Tree = {}
        for parent in parents:
            replacement = None if replaced is None else replaced.get(parent)
            other = self.read(parent, replaced, (*inside, name)) if replacement is None else replacement
            whole = _merge(whole, other)
        return _merge(_merge(whole, tree), presets.get(self.preset, {}))


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
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # the latter for a date that no calendar has
        raise ValueError(f"{what} is not valid YAML: {' '.join(str(error).split())}") from None


def _assigned(tree: Tree, overrides: Iterable[str]) -> Tree:
    """The tree, changed in place."""
    for override in overrides:
        _assign(tree, override)
    return tree


def _assign(tree: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ValueError(f"override '{override}' must look like 'section.key=value'")
    for key in keys[:-1]:
        if not isinstance(tree.get(key), dict):
            tree[key] = {}
        tree = tree[key]
    tree[keys[-1]] = _parse_yaml(text, f"the value of override '{override}'")


def _nearest(path: str) -> str:
    """The known dotted path closest to an unknown one: in its own section if that exists, else anywhere."""
    known = list(_paths(TrainConfig))
    section, _, key = path.rpartition(".")
    siblings = [other for other in known if other.rpartition(".")[0] == section]
    close = difflib.get_close_matches(path, siblings, n=1) or [
        other for other in known if other.rpartition(".")[2] == key
    ]
    return close[0] if close else difflib.get_close_matches(path, known, n=1, cutoff=0.0)[0]


def _paths(model: type[Section], prefix: str = "") -> Iterable[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _paths(field.annotation, f"{prefix}{name}.")
