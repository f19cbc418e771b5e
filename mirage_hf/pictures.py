"""
Pictures of a benchmark: scores, calibration, ROC curves, bars by set, degradations, embeddings and sweeps.

Each function returns a matplotlib `Figure`; [`figure_svg`] and [`save_figure`] write it. matplotlib is imported when
the first picture is made.
"""

from .pictures_embeddings import embedding_map
from .pictures_results import degradation_curves, generator_bars, heat_map, sweep_curve, variation_against_accuracy
from .pictures_scores import reliability_diagram, roc_curves, score_histograms
from .pictures_style import figure_svg, save_figure

__all__ = [
    "degradation_curves",
    "embedding_map",
    "figure_svg",
    "generator_bars",
    "heat_map",
    "reliability_diagram",
    "roc_curves",
    "save_figure",
    "score_histograms",
    "sweep_curve",
    "variation_against_accuracy",
]
