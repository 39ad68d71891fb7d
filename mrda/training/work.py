"""A rough price of each stage's steps, so that the bar of the whole run can tell the time that is left."""

from __future__ import annotations

from mrda.config import StageName, TrainConfig


def work_per_step(config: TrainConfig, stage: StageName) -> float:
    """Relative cost of one step: images times 3x3 convolutions' channel products per LR pixel."""
    networks = config.networks
    # A pixel-shuffle upsampler works on up to scale^2 times the pixels; 20 is x4's 4 + 16.
    mln = networks.mln_feat**2 * (networks.mln_body + 20)
    rdan = networks.num_feat**2 * (2 * networks.num_blocks + 21)
    adaptation = config.adaptation.inner_steps * mln
    per_image = {
        "bicubic": mln,
        "meta": config.meta.tasks * (config.meta.inner_steps + 1) * mln / 2,
        "teacher": adaptation + rdan,
        "student": adaptation + rdan,
    }
    return config.stage(stage).batch * config.micro_batches * per_image[stage]
