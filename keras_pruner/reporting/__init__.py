"""Reports, plots and logs the sparsity of a model."""

from keras_pruner.reporting.comparing import (
    ModelComparison,
    Outputs,
    Scores,
    compare,
)
from keras_pruner.reporting.comparison import ComparisonRow, ReportComparison
from keras_pruner.reporting.cost import (
    COMPRESSIONS,
    FlopsReport,
    FlopsRow,
    Latency,
    Measurement,
    ModelSize,
    Timing,
    count_flops,
    interleave,
    measure,
    recompress,
    size_of_model,
)
from keras_pruner.reporting.engines import (
    ENGINES,
    Engine,
    ExportedEngine,
    engines_of,
    register_engine,
)
from keras_pruner.reporting.kernel_values import weights_of
from keras_pruner.reporting.lines import Line, lines_of
from keras_pruner.reporting.plots import (
    axes_for,
    axes_of_rows,
    plot_error_curves,
    plot_graph,
    plot_history,
    plot_masks,
    plot_report,
    plot_schedule,
    plot_sensitivity,
    plot_tradeoff,
    plot_weights,
)
from keras_pruner.reporting.progress_bar import progress_bar
from keras_pruner.reporting.pruning_summaries import PruningSummaries
from keras_pruner.reporting.render import Column, Shown, View, as_text, percent
from keras_pruner.reporting.report import Report, report
from keras_pruner.reporting.rows import ReportRow, ratio_of, sum_of

__all__ = [
    "COMPRESSIONS",
    "Column",
    "ComparisonRow",
    "ENGINES",
    "Engine",
    "ExportedEngine",
    "FlopsReport",
    "FlopsRow",
    "Latency",
    "Line",
    "Measurement",
    "ModelComparison",
    "ModelSize",
    "Outputs",
    "PruningSummaries",
    "Report",
    "ReportComparison",
    "ReportRow",
    "Scores",
    "Shown",
    "Timing",
    "View",
    "as_text",
    "axes_for",
    "axes_of_rows",
    "compare",
    "count_flops",
    "engines_of",
    "interleave",
    "lines_of",
    "measure",
    "percent",
    "plot_error_curves",
    "plot_graph",
    "plot_history",
    "plot_masks",
    "plot_report",
    "plot_schedule",
    "plot_sensitivity",
    "plot_tradeoff",
    "plot_weights",
    "progress_bar",
    "ratio_of",
    "recompress",
    "register_engine",
    "report",
    "size_of_model",
    "sum_of",
    "weights_of",
]
