"""The training of MRDA: MLN pretraining and meta-learning, teacher, student.

`train` runs the stages; each is a small class (`mrda.training.mln`, `.teacher`, `.student`) that the one loop
(`mrda.training.loop`) drives.
"""

from mrda.training.errors import RunRefusedError
from mrda.training.pipeline import STAGES, train, weights_path
from mrda.training.plan import StagePlan

__all__ = ["STAGES", "RunRefusedError", "StagePlan", "train", "weights_path"]
