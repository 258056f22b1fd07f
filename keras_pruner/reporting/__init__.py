"""Reports, plots and logs the sparsity of a model."""

from keras_pruner.reporting.plots import plot_history, plot_report, plot_schedule
from keras_pruner.reporting.pruning_summaries import PruningSummaries
from keras_pruner.reporting.report import Report, ReportRow, report

__all__ = [
    "PruningSummaries",
    "Report",
    "ReportRow",
    "plot_history",
    "plot_report",
    "plot_schedule",
    "report",
]
