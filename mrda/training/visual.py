"""The visual loss of the real-world networks: L1, perceptual and adversarial (Eq. 7, weights of Real-ESRGAN)."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from mrda.config import StageName, TrainConfig
from mrda.core.randomness import seeded_weights
from mrda.degradations import Degraded
from mrda.networks.discriminator import UNetDiscriminator
from mrda.training.losses import discriminator_loss, generator_loss, reconstruction
from mrda.training.perceptual import PerceptualLoss, check_perceptual
from mrda.training.schedule import learning_rate

Terms = dict[str, Tensor]


class ImageLoss:
    """What a stage's SR is judged by: L1, and from step `visual_from` of its section on the visual loss.

    The discriminator learns in the same backward pass as the network: it sees SR detached, and the network sees it with
    its weights held still, so that the two losses share no gradient. All of it runs in evaluation mode; `finish_step`
    moves its spectral norms on once per step, so that a step is the same for any number of micro-batches and processes.

    Args:
        config: the run's configuration.
        stage: the stage, which has a `visual_from`.

    Raises:
        ValueError: VGG19's weights are needed, but not there or not those published.
    """

    def __init__(self, config: TrainConfig, stage: StageName) -> None:
        self.options = config.visual
        self.first = config.visual_step(stage)
        self.perceptual: PerceptualLoss | None = None
        self.discriminator: UNetDiscriminator | None = None
        self.discriminator_share = 1.0
        """The discriminator's learning rate in terms of the network's."""
        if self.first is None:
            return
        section = config.stage(stage)
        self.discriminator_share = self.options.discriminator_lr / (learning_rate(section, self.first) or section.lr)
        if self.options.perceptual_weight:
            self.perceptual = PerceptualLoss(self.options.vgg19, self.options.perceptual_layers)
        if self.options.gan_weight:
            with seeded_weights(config.seed, stage, "discriminator"):
                self.discriminator = UNetDiscriminator(num_feat=self.options.num_feat).eval()

    def networks(self) -> list[nn.Module]:
        """VGG19 and the discriminator, where there are any."""
        return [network for network in (self.perceptual, self.discriminator) if network is not None]

    def is_visual(self, step: int) -> bool:
        """Whether a step is judged by more than L1."""
        return self.first is not None and step >= self.first

    def __call__(self, step: int, sr: Tensor, pair: Degraded) -> Terms:
        """Judge SR (B, 3, sH, sW) against its HR.

        Returns:
            Scalars: ``"loss"``, which is minimised, and its parts. Where there is a discriminator, ``"loss"`` is the
            sum of the network's loss and the discriminator's.
        """
        options = self.options
        l1 = reconstruction(sr, _target(pair, options.l1_gt_usm))
        if not self.is_visual(step):
            return {"loss": l1, "l1": l1}
        terms, loss = {"l1": l1}, options.l1_weight * l1
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(sr, _target(pair, options.percep_gt_usm))
            loss = loss + options.perceptual_weight * terms["perceptual"]
        if self.discriminator is not None:
            real = _target(pair, options.gan_gt_usm)
            self.discriminator.requires_grad_(False)
            terms["adversarial"] = generator_loss(self.discriminator(sr))
            self.discriminator.requires_grad_(True)
            terms["discriminator"] = discriminator_loss(self.discriminator(real), self.discriminator(sr.detach()))
            loss = loss + options.gan_weight * terms["adversarial"] + terms["discriminator"]
        return {"loss": loss, **terms}

    def finish_step(self) -> None:
        """The optimizer has moved the discriminator: estimate its spectral norms by one more iteration."""
        if self.discriminator is not None:
            self.discriminator.iterate_spectral_norms()


def check_image_loss(config: TrainConfig, stages: Iterable[StageName]) -> None:
    """Refuse stages whose `ImageLoss` would lack VGG19's weights, before any work and without loading them.

    Raises:
        ValueError: they are needed, but not there or not those published.
    """
    options = config.visual
    if options.perceptual_weight and any(config.visual_step(stage) is not None for stage in stages):
        check_perceptual(options.vgg19, options.perceptual_layers)


def _target(pair: Degraded, sharpened: bool) -> Tensor:
    if not sharpened:
        return pair.hr
    assert pair.hr_sharp is not None  # the configuration asks for `real.usm` then
    return pair.hr_sharp
