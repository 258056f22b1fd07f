"""Reports, plots and logs the sparsity of a model."""

from keras_pruner.reporting.comparison import ComparisonRow, ReportComparison
from keras_pruner.reporting.lines import lines_of
from keras_pruner.reporting.plots import plot_history, plot_report, plot_schedule
from keras_pruner.reporting.progress_bar import progress_bar
from keras_pruner.reporting.pruning_summaries import PruningSummaries
from keras_pruner.reporting.render import Column, Shown, View, percent
from keras_pruner.reporting.report import Report, report
from keras_pruner.reporting.rows import ReportRow

__all__ = [
    "Column",
    "ComparisonRow",
    "PruningSummaries",
    "Report",
    "ReportComparison",
    "ReportRow",
    "Shown",
    "View",
    "lines_of",
    "percent",
    "plot_history",
    "plot_report",
    "plot_schedule",
    "progress_bar",
    "report",
]
