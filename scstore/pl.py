"""Figures of labelled cells, of evaluations and of heads, on matplotlib's axes; needs ``scstore[plot]``."""

from scstore.report.dot_plots import evaluation as evaluation
from scstore.report.dot_plots import markers as markers
from scstore.report.plots import composition as composition
from scstore.report.plots import confidence as confidence
from scstore.report.plots import confusion as confusion
from scstore.report.plots import umap as umap

__all__ = ["composition", "confidence", "confusion", "evaluation", "markers", "umap"]
