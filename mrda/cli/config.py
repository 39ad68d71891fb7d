# SPDX-License-Identifier: Apache-2.0
"""`mrda config`: training configurations, whole and as a schema."""

import json
from typing import Annotated

import typer

from mrda.cli.app import add_group
from mrda.cli.common import Overrides, Preset, refusing

_group = add_group(
    "config",
    help="Show training configurations; mrda train --list names those of the package.",
    short_help="Training configurations: one with all options, and their JSON schema.",
)


@_group.command(
    epilog="Example: mrda config show classic-iso-x4 --preset paper",
    short_help="Show a configuration with all options.",
)
def show(
    name: Annotated[str, typer.Argument(help="Name of a configuration or a YAML file.", metavar="NAME")],
    preset: Preset = "recommended",
    overrides: Overrides = None,
) -> None:
    """Print a configuration as mrda train would use it: YAML with the value of every option."""
    from mrda.config.load import load_config

    with refusing():
        settings = load_config(name, overrides or (), preset=preset)
    typer.echo(settings.to_yaml(), nl=False)


@_group.command(
    epilog="Example: mrda config schema > mrda.schema.json", short_help="Print the JSON schema for editors."
)
def schema() -> None:
    """Print the JSON schema of configuration files, by which editors complete, explain and check their options."""
    from mrda.config.schema import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))
