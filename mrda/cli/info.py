# SPDX-License-Identifier: Apache-2.0
"""`mrda info`."""

import json
import platform
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mrda.cli.app import app
from mrda.cli.common import chosen_weights, refuse, refusing

if TYPE_CHECKING:
    from mrda.networks import Network


@app.command(
    epilog="Example: mrda info --model mrda-x4 --json",
    short_help="Show versions and kernel backends, or the origin, size and cost of weights.",
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
    shipped: Annotated[
        bool, typer.Option("--weights", help="List the weights of the package: licence, data, purpose, scores.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object instead of text.")] = False,
) -> None:
    """Show versions and kernel backends; or, for weights or a model, its architecture, parameters and mult-adds.

    Of weights also what is known of their origin: licence, attribution, data, training, scores, recipe.
    """
    if shipped:
        if weights is not None or model is not None:
            refuse(f"--weights lists all weights of the package: leave it out for {weights or model} alone")
        _show_shipped(as_json)
        return
    if weights is None and model is None:
        if height is not None or width is not None:
            refuse("--height and --width require a network: give a weights file or --model")
        _show_installation(as_json)
        return
    if weights is not None and model is not None:
        refuse(f"--model {model} and the weights {weights} can't be combined: give one of them")
    if weights is not None:
        weights = chosen_weights(weights)
    else:
        from mrda.core.checks import check_choice
        from mrda.options.networks import MODELS

        with refusing():
            check_choice("--model", model, MODELS)
    from mrda.networks.complexity import LR_HEIGHT, LR_WIDTH

    with refusing():
        network = _network(weights, model)
        facts = _facts(
            network,
            model or str(weights),
            LR_HEIGHT if height is None else height,
            LR_WIDTH if width is None else width,
        )
        if weights is not None:
            facts |= _registered(str(weights)) | {"training": _training(weights)}
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

    from mrda.networks import MODELS

    assert model is not None
    with torch.device("meta"):
        return MODELS[model]()


def _training(weights: Path) -> dict[str, Any]:
    """Read what a weights file says of its origin: licence, data, stage, step, and the recipe by its options."""
    from mrda.networks.checkpoints import further_metadata
    from mrda.upscale.weights import find_weights

    said: dict[str, Any] = dict(further_metadata(find_weights(weights)))
    if "recipe" in said:
        with suppress(ValueError):  # written by others, and told as it is
            said["recipe"] = json.loads(said["recipe"])
    return dict(sorted(said.items(), key=lambda entry: entry[0] == "recipe"))


def _registered(weights: str) -> dict[str, Any]:
    """Return what the package says of its weights besides their metadata: purpose, scores, and their pair."""
    from mrda.upscale.choice import AUTO, PURPOSES
    from mrda.upscale.strength import pair_of
    from mrda.upscale.weights import BUNDLED_FOLDER, SCORES, current_name, find_weights

    name = current_name(weights)
    if find_weights(weights) != BUNDLED_FOLDER / f"{name}.safetensors":
        return {}
    purpose = PURPOSES.get(name)
    found: dict[str, Any] = {"purpose": purpose.suits} if purpose else {}
    if pair := pair_of(name):
        found["strength"] = dict(zip(("0", "1"), pair, strict=True))
        if purpose and purpose.strength is not None:
            found["strength"][AUTO] = purpose.strength
    return found | ({"scores": SCORES[name]} if SCORES.get(name) else {})


def _show_shipped(as_json: bool) -> None:
    """Print the weights of the package, each with what is known of its origin."""
    from mrda.networks import read_metadata
    from mrda.upscale.weights import BUNDLED, find_weights

    entries: list[dict[str, Any]] = []
    with refusing():
        for name in BUNDLED:
            scale = int(read_metadata(find_weights(name))["scale"])
            said = _training(Path(name))
            said.pop("recipe", None)
            entries.append({"name": name, "scale": scale, **_registered(name), **said})
    if as_json:
        typer.echo(json.dumps(entries))
        return
    for entry in entries:
        lines = {
            "scale": entry["scale"],
            "licence": entry.get("license", "not named in the file"),
            "data": entry.get("data", "not named in the file"),
            **_lines_of(entry),
        }
        typer.echo("\n".join([entry["name"], *(f"  {key:<12}{value}" for key, value in lines.items())]))
    typer.echo("mrda info NAME shows all that is known of one")


def _lines_of(facts: dict[str, Any]) -> dict[str, str]:
    """Return purpose, pair and scores as lines of text, as far as there are any."""
    from mrda.upscale.choice import AUTO

    lines = {"for": facts["purpose"]} if "purpose" in facts else {}
    if pair := facts.get("strength"):
        chosen = f"; -w auto takes {pair[AUTO]:g}" if AUTO in pair else ""
        lines["strength"] = f"0 is {pair['0']}, 1 is {pair['1']}{chosen}"
    for protocol, scores in facts.get("scores", {}).items():
        lines[protocol] = ", ".join(f"{name} {psnr:.2f} dB / {ssim:.4f}" for name, (psnr, ssim) in scores.items())
    return lines


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
    said = _lines_of(facts) | facts.get("training", {})
    recipe = said.pop("recipe", {})
    if not isinstance(recipe, dict):
        said, recipe = {**said, "recipe": recipe}, {}
    text = [f"{key:<14}{value}" for key, value in (lines | said).items()]
    text += ["recipe", *(f" {key} = {value}" for key, value in recipe.items())] if recipe else []
    return "\n".join(text)


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
