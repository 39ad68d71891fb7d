# SPDX-License-Identifier: Apache-2.0
"""The JSON schema of configuration files, by which editors complete and check them."""

from __future__ import annotations

from typing import Any

from mrda.config.train import TrainConfig

_OPTIONS = "TrainConfig"
_DESCRIPTIONS = {
    "extends": "Names of the package's configurations, or paths of others, that this one changes.",
    "presets": "Trees of options by the names of presets; the one that --preset names is merged over this file.",
}


def json_schema() -> dict[str, Any]:
    """Return the schema of a configuration file: all options, with defaults and meanings, and the file's own keys.

    It refuses unknown keys, the former flat names of the section `real` among them, which files may still have. Rules
    between options are checked when a file is read.
    """
    options = TrainConfig.model_json_schema()
    parts = options.pop("$defs")
    name = {"type": "string"}
    own: dict[str, dict[str, Any]] = {
        "extends": {"anyOf": [name, {"type": "array", "items": name}]},
        "presets": {"type": "object", "additionalProperties": {"$ref": f"#/$defs/{_OPTIONS}"}},
    }
    for key, text in _DESCRIPTIONS.items():
        own[key]["description"] = text
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **options,
        "title": "MRDA training configuration",
        "properties": {**own, **options["properties"]},
        "$defs": {_OPTIONS: options, **parts},
    }
