# SPDX-License-Identifier: Apache-2.0
"""Names that an evaluation is chosen by."""

from __future__ import annotations

PROTOCOLS = ("gaussian8", "mrda9", "dasr9", "dasr-iso", "wide", "bicubic")
"""The protocols that degrade HR photos."""
REAL = "real"
"""The protocol of given LR and HR photos, and the name of its only condition."""
DIV2KRK = "div2krk"
"""Likewise, for the set of KernelGAN, of which only the number of border pixels differs."""
UNPAIRED = "unpaired"
"""The protocol of LR photos without HR."""
IDRS = ("own", "mean", "other")
"""The IDRs that a network may be told in place of each photo's own."""
VARIANTS = ("released", "matlab")
"""Luma weights of the metrics."""
