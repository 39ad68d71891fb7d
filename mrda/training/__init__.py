# SPDX-License-Identifier: Apache-2.0
"""The training of MRDA: MLN pretraining and meta-learning, teacher, student.

`train` runs the stages (`mrda.training.stages`) one after the other; a `Trainer` (`mrda.training.trainer`) trains each.
"""

from mrda.core.packages import require_training

require_training()  # before an import fails without a sentence

from mrda.training.checkpoints import RunRefusedError, RunStoppedError  # noqa: E402
from mrda.training.plan import StagePlan  # noqa: E402
from mrda.training.run import Run, train, weights_path  # noqa: E402
from mrda.training.stages import STAGES  # noqa: E402

__all__ = ["STAGES", "Run", "RunRefusedError", "RunStoppedError", "StagePlan", "train", "weights_path"]
