"""A rough price of each stage's work, so that the bar of the whole run can tell the time that is left."""

from __future__ import annotations

from mrda.config import StageName, TrainConfig


def work(config: TrainConfig, stage: StageName, steps: int) -> float:
    """Relative cost of a stage's first ``steps`` steps.

    It is the number of images in a micro-batch times the 3x3 convolutions' channel products per LR pixel.
    """
    networks = config.networks
    # A pixel-shuffle upsampler works on up to scale^2 times the pixels; 20 is x4's 4 + 16.
    mln = networks.mln_feat**2 * (networks.mln_body + 20)
    rdan = networks.num_feat**2 * (2 * networks.num_blocks + 21)
    den = 4 * networks.den_width**2  # its later layers are wider, on fewer pixels
    adapted, all_images = config.adaptation.images, config.stage(stage).batch
    adaptation = config.adaptation.inner_steps * mln * min(1.0, (adapted or all_images) / all_images)
    teacher_adapts = config.teacher.den_input == "features"
    per_image = {
        "bicubic": mln,
        "meta": config.meta.maml_order * config.meta.tasks * (config.meta.inner_steps + 1) * mln / 2,
        "teacher": teacher_adapts * adaptation + den + rdan,
        "student": adaptation + 2 * den + rdan,
    }
    encoder_steps = min(steps, config.student.encoder_steps) if stage == "student" else 0
    first = config.visual_step(stage)
    visual_steps = 0 if first is None else max(0, steps - first)
    visual = visual_steps * _visual(config)
    return config.stage(stage).batch * (steps * per_image[stage] - encoder_steps * rdan + visual)


def _visual(config: TrainConfig) -> float:
    """Of the visual loss, per image: VGG19 on SR and HR, the discriminator on SR twice and on HR."""
    vgg19 = 2 * 43_200 * (config.visual.perceptual_weight > 0)
    discriminator = 3 * 11 * config.visual.num_feat**2 * (config.visual.gan_weight > 0)
    return config.scale**2 * (vgg19 + discriminator)
