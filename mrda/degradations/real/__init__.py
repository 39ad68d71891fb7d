# SPDX-License-Identifier: Apache-2.0
"""The degradation of real photos: Real-ESRGAN's second-order pipeline (ICCVW 2021), on a whole batch at once."""

from mrda.degradations.real.pipeline import RealDegradation, Step
from mrda.options.real import RealOptions, RoundOptions, SecondRoundOptions

__all__ = ["RealDegradation", "RealOptions", "RoundOptions", "SecondRoundOptions", "Step"]
