# SPDX-License-Identifier: Apache-2.0
"""`mrda info`."""

import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mrda.cli.app import app
from mrda.cli.common import chosen_weights, refuse, refusing

if TYPE_CHECKING:
    from mrda.networks import Network


@app.command(
    epilog="Example: mrda info --model mrda-x4 --json",
    short_help="Show versions and kernel backends, or the size and cost of a network.",
)
def info(
    weights: Annotated[
        Path | None, typer.Argument(help="Weights file, or the name of weights.", metavar="WEIGHTS")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Published model instead of a file, such as mrda-x4.", metavar="NAME")
    ] = None,
    height: Annotated[
        int | None, typer.Option("--height", help="Height of the LR image (default: 180).", metavar="N")
    ] = None,
    width: Annotated[
        int | None, typer.Option("--width", help="Width of the LR image (default: 320).", metavar="N")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object instead of text.")] = False,
) -> None:
    """Show versions and kernel backends; or, for weights or a model, its architecture, parameters and mult-adds."""
    if weights is None and model is None:
        if height is not None or width is not None:
            refuse("--height and --width require a network: give a weights file or --model")
        _show_installation(as_json)
        return
    if weights is not None and model is not None:
        refuse(f"--model {model} and the weights {weights} can't be combined: give one of them")
    if weights is not None:
        weights = chosen_weights(weights)
    from mrda.networks.complexity import LR_HEIGHT, LR_WIDTH

    with refusing():
        network = _network(weights, model)
        facts = _facts(
            network,
            model or str(weights),
            LR_HEIGHT if height is None else height,
            LR_WIDTH if width is None else width,
        )
    typer.echo(json.dumps(facts) if as_json else _text(facts))


def _network(weights: Path | None, model: str | None) -> "Network":
    """Return the network of a file, or the published one of a name, which is created without data.

    Raises:
        ValueError: there is no such file or name, or the file holds no network.
    """
    if weights is not None:
        from mrda.upscale.upscaler import load_weights

        return load_weights(weights)
    import torch

    from mrda.core.checks import check_choice
    from mrda.networks import MODELS

    check_choice("--model", model, MODELS)
    assert model is not None
    with torch.device("meta"):
        return MODELS[model]()


def _facts(network: "Network", name: str, height: int, width: int) -> dict[str, Any]:
    """Collect the facts about a network, by the keys of the JSON object."""
    from dataclasses import asdict

    from mrda.networks import complexity

    return {
        "name": name,
        "architecture": type(network).__name__,
        "scale": network.scale,
        "lr_height": height,
        "lr_width": width,
        **asdict(complexity(network, height, width)),
        "hyperparameters": network.hyperparameters,
    }


def _text(facts: dict[str, Any]) -> str:
    def cost(key: str) -> str:
        return f"{facts[key] / 1e9:.2f} G ({facts[key]:,})"

    lr = f"{facts['lr_height']}x{facts['lr_width']}"
    lines = {
        "architecture": facts["architecture"],
        "scale": facts["scale"],
        "parameters": f"{facts['parameters']:,}, of which trainable {facts['parameters_trainable']:,}",
        "mult-adds": f"{cost('mult_adds')} for an LR image of {lr} (height x width)",
        " static conv": cost("mult_adds_static_conv"),
        " dynamic conv": cost("mult_adds_dynamic_conv"),
        " linear": cost("mult_adds_linear"),
        " executed": f"{cost('mult_adds_executed')} with the upscaler as one convolution",
        **{key: value for key, value in facts["hyperparameters"].items() if key != "scale"},
    }
    return "\n".join(f"{key:<14}{value}" for key, value in lines.items())


def _show_installation(as_json: bool) -> None:
    from mrda_kernels import __version__, dispatch
    from mrda_kernels.info import DEVICES, report

    if not as_json:
        typer.echo(report())
        return
    import torch

    serves = {
        name: [device for device in DEVICES if dispatch.load(name).why_not(device) is None]
        for name in dispatch.BACKENDS
    }
    facts = {
        "version": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "backends": serves,
    }
    typer.echo(json.dumps(facts))
