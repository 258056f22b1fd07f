"""Plots schedules, training runs, reports, weights and comparisons by matplotlib."""

from keras_pruner.reporting.plots.axes import axes_for, axes_of_rows
from keras_pruner.reporting.plots.curves import plot_error_curves, plot_sensitivity
from keras_pruner.reporting.plots.graphs import plot_graph
from keras_pruner.reporting.plots.histories import plot_history
from keras_pruner.reporting.plots.reports import plot_report
from keras_pruner.reporting.plots.schedules import plot_schedule
from keras_pruner.reporting.plots.tradeoffs import plot_tradeoff
from keras_pruner.reporting.plots.weights import plot_masks, plot_weights

__all__ = [
    "axes_for",
    "axes_of_rows",
    "plot_error_curves",
    "plot_graph",
    "plot_history",
    "plot_masks",
    "plot_report",
    "plot_schedule",
    "plot_sensitivity",
    "plot_tradeoff",
    "plot_weights",
]
