"""What a training stage is to the loop, and what the stages build alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn

from mrda.config import StageName, TrainConfig
from mrda.degradations import ClassicDegradation, Degraded
from mrda.degradations.pool import ShufflePool
from mrda.evaluation.samples import Condition, Method, Sample
from mrda.networks import MLN, RDAN, MRDAStudent, MRDATeacher, Network, load_network
from mrda.networks.layers import to_channels_last
from mrda.training.adapter import Adapter, Mean
from mrda.training.real import PooledDegradation, build_real_degradation
from mrda.training.visual import ImageLoss

Degradation = Callable[[Tensor, torch.Generator], Degraded]
"""HR (B, 3, H, W) in [0, 1] and a source of random draws -> a degraded batch."""

AnyNetwork = TypeVar("AnyNetwork", MLN, MRDATeacher)
AnyMRDA = TypeVar("AnyMRDA", MRDATeacher, MRDAStudent)


class Stage(ABC):
    """One stage of the method: the network it trains, the networks it only asks, and its loss.

    Args:
        config: the run's configuration.
        inputs: weight files of earlier stages, by the names in `inputs`.
    """

    name: ClassVar[StageName]
    tasks: int = 1
    """Losses per micro-batch; each is back-propagated before the next is computed."""
    hr_per_task: bool = False
    """Whether every task has HR patches of its own."""
    loss_share: float = 1.0
    """What the sum of a micro-batch's losses is multiplied by."""
    network: Network
    """The network that is trained and saved; what must not move in it does not require gradients."""
    frozen: tuple[nn.Module, ...] = ()
    """Networks that are evaluated but never change by gradients of this stage."""
    inner_mean: Mean | None = None
    """Averages inner gradients over processes, where the config asks for it; set by the loop."""
    adapter: Adapter | None = None
    """The MLN that is adapted to every batch, in stages that ask one."""
    image_loss: ImageLoss | None = None
    """What judges SR, in stages whose network makes the final image; it may bring a discriminator."""
    degradation: Degradation | None = None
    """What makes LR of HR; None where that is no matter of chance."""

    @abstractmethod
    def __init__(self, config: TrainConfig, inputs: Mapping[str, Path]) -> None: ...

    @classmethod
    @abstractmethod
    def build(cls, config: TrainConfig) -> Network:
        """Make the stage's network as it is before any training."""

    @classmethod
    def inputs(cls, config: TrainConfig) -> Mapping[str, StageName]:
        """Weights the stage starts from: a name for each (`init_NAME` in its section), and the stage that makes it."""
        return {}

    @classmethod
    def hr_size(cls, config: TrainConfig) -> int:
        """Side in HR pixels of the patches that `degrade` takes."""
        return config.hr_size

    @classmethod
    @abstractmethod
    def depends_on(cls, config: TrainConfig) -> tuple[str, ...]:
        """Config sections and keys, besides its own section and the common ones, that change what it computes."""

    def degrade(self, hr: Tensor, generator: torch.Generator) -> Degraded:
        """Make of HR patches (B, 3, H, W) in [0, 1] what `loss` takes; ``generator`` is the source of all chance."""
        assert self.degradation is not None
        return self.degradation(hr, generator)

    @abstractmethod
    def loss(self, step: int, pair: Degraded) -> dict[str, Tensor]:
        """Compute one loss on a micro-batch, without any chance.

        Args:
            step: number of the step, from 0.
            pair: LR, HR and what came between.

        Returns:
            Scalars by name: ``"loss"``, which is minimised, and its parts, which are logged.
        """

    def phase(self, step: int) -> Hashable:
        """What of a step's number `loss` depends on: in steps of one phase it computes the same."""
        return None if self.image_loss is None else self.image_loss.is_visual(step)

    @property
    def repeats(self) -> bool:
        """Whether `loss` does nothing but compute, so that a recording of it serves as well."""
        return self.inner_mean is None and (self.adapter is None or self.adapter.options.reset_mln)

    @abstractmethod
    def method(self, network: Network) -> Method:
        """How ``network``, this stage's or an average of it, upscales a validation photo."""

    def conditions(self, wanted: Sequence[Condition]) -> Sequence[Condition]:
        """The degradations to validate under, of those that the run's config names."""
        return wanted

    def curve(self, network: Network, steps: int) -> Callable[[Sample], list[Tensor]] | None:
        """Of an MLN that adapts: a sample's SR after 0, 1, ... ``steps`` steps."""
        return None

    def compile(self) -> None:
        """Let torch.compile make the trained network's parts faster."""
        for part in self.network.children():
            part.compile()

    def to(self, device: torch.device, *, channels_last: bool = True) -> None:
        """Move all networks to ``device``."""
        judges = () if self.image_loss is None else self.image_loss.networks()
        for network in (self.network, *self.frozen, *judges):
            network.to(device)
            if channels_last:
                to_channels_last(network)

    def trainable(self) -> list[nn.Parameter]:
        """The parameters of the network that the optimizer moves."""
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    @property
    def discriminator(self) -> nn.Module | None:
        """The network that learns beside, to tell SR from HR."""
        return None if self.image_loss is None else self.image_loss.discriminator

    def finish_step(self, mean: Mean) -> None:
        """The optimizer has moved its parameters."""
        if self.adapter is not None:
            self.adapter.finish_step(mean)
        if self.image_loss is not None:
            self.image_loss.finish_step()

    def discard_step(self) -> None:
        """The step is skipped."""
        if self.adapter is not None:
            self.adapter.discard_step()

    def carried(self) -> dict[str, Any]:
        """What goes from step to step besides the network and its optimizer."""
        return {
            "mln": {} if self.adapter is None else self.adapter.carried(),
            "discriminator": {} if self.discriminator is None else self.discriminator.state_dict(),
            "pool": self.degradation.state_dict() if isinstance(self.degradation, PooledDegradation) else {},
        }

    def restore_carried(self, state: Mapping[str, Any]) -> None:
        """Take up what `carried` gave."""
        if self.adapter is not None:
            self.adapter.restore_carried(state["mln"])
        if self.discriminator is not None:
            self.discriminator.load_state_dict(state["discriminator"])
        if isinstance(self.degradation, PooledDegradation):
            self.degradation.load_state_dict(state["pool"])


def mln_options(config: TrainConfig) -> dict[str, Any]:
    """Keyword arguments of the MLN."""
    return {"scale": config.scale, "num_feat": config.networks.mln_feat, "num_body": config.networks.mln_body}


def mrda_options(config: TrainConfig) -> dict[str, Any]:
    """Keyword arguments that teacher and student share."""
    networks = config.networks
    return {
        "scale": config.scale,
        "num_feat": networks.num_feat,
        "num_blocks": networks.num_blocks,
        "kernel_size": networks.kernel_size,
        "den_width": networks.den_width,
        "mask_channels": networks.num_feat if networks.mask_channels == "C" else 1,
        "mask_input": networks.mask_input,
        "dyn_act": networks.dyn_act,
        "conv_type": networks.conv_type,
        "static_groups": networks.static_groups,
    }


def with_den_init(network: AnyMRDA, config: TrainConfig) -> AnyMRDA:
    """The network, its DEN drawn as `networks.den_init` says."""
    if config.networks.den_init == "he":
        network.den.initialize_he()
    return network


def build_degradation(config: TrainConfig) -> Degradation:
    """The degradation that the config describes."""
    if config.degradation.type == "classic":
        return ClassicDegradation(config.scale, config.degradation)
    degradation = build_real_degradation(config, config.data.patch_size)
    pool = config.real.queue_size
    return PooledDegradation(degradation, ShufflePool(pool)) if pool else degradation


def degradation_keys(config: TrainConfig) -> tuple[str, ...]:
    """Config sections that say how LR is made."""
    return ("degradation",) if config.degradation.type == "classic" else ("degradation", "real")


def upscaler_is_frozen(config: TrainConfig, stage: StageName) -> bool:
    """Whether ``stage`` must leave the MLN's upscaler as it is, in its inner and its outer steps."""
    stages = {"all": ("meta", "teacher", "student"), "student_only": ("student",), "none": ()}
    return stage in stages[config.freeze_upscaler]


def load_mln(config: TrainConfig, path: Path) -> MLN:
    """Load the MLN of an earlier stage.

    Raises:
        ValueError: the file is unreadable, or holds another architecture or other sizes than ``config``.
    """
    return _load(path, MLN, mln_options(config))


def load_teacher(config: TrainConfig, path: Path) -> MRDATeacher:
    """Load the teacher of an earlier stage.

    Raises:
        ValueError: the file is unreadable, or holds another architecture or other sizes than ``config``.
    """
    return _load(path, MRDATeacher, {**mrda_options(config), "mln_feat": config.networks.mln_feat})


def start_from(network: Network, path: Path) -> None:
    """Give ``network`` the weights of a file; of a network of another kind, those of its RDAN alone.

    Raises:
        ValueError: the file is unreadable, has other sizes than ``network``, or they have no part in common.
    """
    made = load_network(path)
    ours: Network | RDAN = network
    theirs: Network | RDAN = made
    if type(made) is not type(network):
        if isinstance(made, MLN) or isinstance(network, MLN):
            raise ValueError(
                f"{path} holds the network {type(made).__name__}, but a {type(network).__name__} is to start from it: "
                "name the weights of one"
            )
        ours, theirs = network.rdan, made.rdan
    _check_options(path, theirs.hyperparameters, ours.hyperparameters)
    ours.load_state_dict(theirs.state_dict())


INPUTS: Mapping[str, Callable[[TrainConfig, Path], Network]] = {"mln": load_mln, "teacher": load_teacher}
"""How to load what a stage starts from, by the names in `Stage.inputs`."""


def _load(path: Path, expect: type[AnyNetwork], options: Mapping[str, Any]) -> AnyNetwork:
    network = cast(AnyNetwork, load_network(path, expect=expect))
    _check_options(path, network.hyperparameters, options)
    return network


def _check_options(path: Path, made_with: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    for key, value in options.items():
        if made_with[key] != value:
            raise ValueError(f"the weights {path} were made with {key}={made_with[key]}, the config says {value}")
