"""Reports, plots and logs the sparsity of a model."""

from keras_pruner.reporting.comparison import ComparisonRow, ReportComparison
from keras_pruner.reporting.plots import plot_history, plot_report, plot_schedule
from keras_pruner.reporting.pruning_summaries import PruningSummaries
from keras_pruner.reporting.report import Report, report
from keras_pruner.reporting.rows import ReportRow

__all__ = [
    "ComparisonRow",
    "PruningSummaries",
    "Report",
    "ReportComparison",
    "ReportRow",
    "plot_history",
    "plot_report",
    "plot_schedule",
    "report",
]
