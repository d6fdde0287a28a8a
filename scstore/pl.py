"""Figures of labelled cells, of evaluations and of heads, on matplotlib's axes; needs ``scstore[plot]``."""

from scstore.reporting.dot_plots import evaluation as evaluation
from scstore.reporting.dot_plots import markers as markers
from scstore.reporting.plots import composition as composition
from scstore.reporting.plots import confidence as confidence
from scstore.reporting.plots import confusion as confusion
from scstore.reporting.plots import umap as umap

__all__ = ["composition", "confidence", "confusion", "evaluation", "markers", "umap"]
