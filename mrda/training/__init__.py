# SPDX-License-Identifier: Apache-2.0
"""The training of MRDA: MLN pretraining and meta-learning, teacher, student.

`train` runs the stages (`mrda.training.stages`) one after the other; a `Trainer` (`mrda.training.trainer`) trains each.
"""

from mrda.training.checkpoints import RunRefusedError, RunStoppedError
from mrda.training.plan import StagePlan
from mrda.training.run import Run, train, weights_path
from mrda.training.stages import STAGES

__all__ = ["STAGES", "Run", "RunRefusedError", "RunStoppedError", "StagePlan", "train", "weights_path"]
