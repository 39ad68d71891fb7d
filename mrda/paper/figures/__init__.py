# SPDX-License-Identifier: Apache-2.0
"""The paper's figures: data first, drawing apart; every picture has its numbers in a CSV beside it."""

from mrda.paper.figures.comparison import Comparison, save_comparison

__all__ = ["Comparison", "save_comparison"]
