"""Stage 2, the teacher: RDAN and its DEN learn from the features of an MLN adapted to each batch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from mrda.config import StageName, TrainConfig
from mrda.core.randomness import seeded_weights
from mrda.degradations import Degraded
from mrda.evaluation.methods import oracle_method, student_method, teacher_method
from mrda.evaluation.samples import Method
from mrda.networks import MRDAOracle, MRDAStudent, MRDATeacher, Network
from mrda.networks.layers import freeze
from mrda.training.adapter import Adapter
from mrda.training.stage import (
    Stage,
    build_degradation,
    degradation_keys,
    load_mln,
    mrda_options,
    upscaler_is_frozen,
    with_den_init,
)
from mrda.training.visual import ImageLoss


class TeacherStage(Stage):
    """Stage 2 (Algorithm 2); every batch adapts the meta-learned MLN afresh.

    `teacher.den_input` puts LR or the blur kernel in the place of the MLN's features: rows T1 and T3 of Table V.
    """

    name = "teacher"
    image_loss: ImageLoss

    def __init__(self, config: TrainConfig, inputs: Mapping[str, Path]) -> None:
        self.config = config
        if config.teacher.den_input == "features":
            mln = freeze(load_mln(config, inputs["mln"]))
            self.frozen = (mln,)
            self.adapter = Adapter(mln, config.adaptation, freeze_upscaler=upscaler_is_frozen(config, self.name))
        with seeded_weights(config.seed, self.name, "weights"):
            self.network = self.build(config)
        self.degradation = build_degradation(config)
        self.image_loss = ImageLoss(config, self.name)

    @classmethod
    def build(cls, config: TrainConfig) -> MRDATeacher | MRDAStudent | MRDAOracle:
        """The network, by what its degradation is read from."""
        if config.teacher.den_input == "lr":
            return with_den_init(MRDAStudent(**mrda_options(config)), config)
        if config.teacher.den_input == "kernel":
            return MRDAOracle(blur_size=config.degradation.kernel_size, **mrda_options(config))
        return with_den_init(MRDATeacher(mln_feat=config.networks.mln_feat, **mrda_options(config)), config)

    @classmethod
    def inputs(cls, config: TrainConfig) -> Mapping[str, StageName]:
        """The meta-learned MLN, where features of it are read."""
        return {"mln": "meta"} if config.teacher.den_input == "features" else {}

    @classmethod
    def depends_on(cls, config: TrainConfig) -> tuple[str, ...]:
        """See `Stage`."""
        visual = () if config.visual_step(cls.name) is None else ("visual",)
        return *degradation_keys(config), *visual, "networks", "adaptation", "freeze_upscaler"

    def loss(self, step: int, pair: Degraded) -> dict[str, Tensor]:
        """What the image loss says of SR: L1, or more."""
        if isinstance(self.network, MRDAStudent):
            sr = self.network(pair.lr)
        elif isinstance(self.network, MRDAOracle):
            assert pair.kernel is not None
            sr = self.network(pair.lr, pair.kernel)
        else:
            assert self.adapter is not None
            sr = self.network(pair.lr, self.adapter.features(pair.lr, pair.lr_up, pair.hr, self.inner_mean))
        return self.image_loss(step, sr, pair)

    def method(self, network: Network) -> Method:
        """The teacher, with the MLN adapted to the photo and its HR."""
        if isinstance(network, MRDAStudent):
            return student_method(network)
        if isinstance(network, MRDAOracle):
            return oracle_method(network)
        assert isinstance(network, MRDATeacher)
        assert self.adapter is not None
        options = self.config.adaptation
        return teacher_method(
            network,
            self.adapter.mln,
            steps=options.inner_steps,
            inner_lr=options.inner_lr,
            freeze_upscaler=self.adapter.freeze_upscaler,
        )
