"""Pruning for Keras 3: sparse models that keep their accuracy.

`PruningCallback` prunes in `model.fit`, `PrunedLayer` and `wrap` prune single layers,
`strip` returns a plain model, `report` lists the pruned and the skipped kernels.
"""

try:
    import keras  # noqa: F401
except ImportError as error:
    raise ImportError(
        "keras_pruner needs Keras with a backend. Install one of "
        "keras-pruner[tensorflow], keras-pruner[tensorflow-cpu], keras-pruner[jax] or "
        "keras-pruner[torch], and set KERAS_BACKEND if it is not TensorFlow."
    ) from error

from keras_pruner.components import (
    ALLOCATIONS,
    CRITERIA,
    PATTERNS,
    REGULARIZERS,
    SCHEDULES,
    Allocation,
    Criterion,
    GradientCriterion,
    Pattern,
    Regularizer,
    Schedule,
    register_allocation,
    register_criterion,
    register_pattern,
    register_regularizer,
    register_schedule,
)
from keras_pruner.config import PruningConfig
from keras_pruner.kernels import KernelLayout, find_kernels, register_kernel_rule
from keras_pruner.oneshot import (
    KernelInputs,
    OneShotMethod,
    OneShotReport,
    Recovery,
    distill,
    prune_at_init,
    prune_one_shot,
    reestimate_batch_normalization,
    register_kernel_inputs,
    register_one_shot_method,
    register_recovery,
)
from keras_pruner.pruners import (
    PRUNERS,
    BasePruner,
    DynamicPruner,
    KerasBasePruner,
    PruningScheduler,
    create_pruners,
    register_pruner,
)
from keras_pruner.pytorch import PytorchBasePruner
from keras_pruner.reporting import (
    PruningSummaries,
    Report,
    plot_history,
    plot_report,
    plot_schedule,
    report,
)
from keras_pruner.slimming import strip
from keras_pruner.training import (
    BackupAndResume,
    PrunedLayer,
    PruningCallback,
    PruningOptimizer,
    StatelessPruner,
    load_weights,
    save_model,
    save_weights,
    wrap,
)
from keras_pruner.version import __version__

__all__ = [
    "ALLOCATIONS",
    "CRITERIA",
    "PATTERNS",
    "PRUNERS",
    "REGULARIZERS",
    "SCHEDULES",
    "Allocation",
    "BackupAndResume",
    "BasePruner",
    "Criterion",
    "DynamicPruner",
    "GradientCriterion",
    "KerasBasePruner",
    "KernelInputs",
    "KernelLayout",
    "OneShotMethod",
    "OneShotReport",
    "Pattern",
    "PrunedLayer",
    "PruningCallback",
    "PruningConfig",
    "PruningOptimizer",
    "PruningScheduler",
    "PruningSummaries",
    "PytorchBasePruner",
    "Recovery",
    "Regularizer",
    "Report",
    "Schedule",
    "StatelessPruner",
    "__version__",
    "create_pruners",
    "distill",
    "find_kernels",
    "load_weights",
    "plot_history",
    "plot_report",
    "plot_schedule",
    "prune_at_init",
    "prune_one_shot",
    "reestimate_batch_normalization",
    "register_allocation",
    "register_criterion",
    "register_kernel_inputs",
    "register_kernel_rule",
    "register_one_shot_method",
    "register_pattern",
    "register_pruner",
    "register_recovery",
    "register_regularizer",
    "register_schedule",
    "report",
    "save_model",
    "save_weights",
    "strip",
    "wrap",
]
