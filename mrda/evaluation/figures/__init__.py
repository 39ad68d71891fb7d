"""The paper's figures: data first, drawing apart; every picture has its numbers in a CSV beside it."""

from mrda.evaluation.figures.comparison import Comparison, most_detailed_crop, save_comparison

__all__ = ["Comparison", "most_detailed_crop", "save_comparison"]
