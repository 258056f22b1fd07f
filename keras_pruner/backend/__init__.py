"""Holds the code that depends on TensorFlow, JAX, torch or Keras' private names."""

from keras_pruner.backend.compile import (
    CompiledFunction,
    CompiledUpdate,
    FunctionCache,
    call_directly,
    call_in_trace,
)
from keras_pruner.backend.devices import (
    beside,
    check_strategy,
    is_divided,
    layout_for,
    num_replicas,
    sum_over_replicas,
)
from keras_pruner.backend.gradients import derivative, double_precision, no_gradients
from keras_pruner.backend.hashing import salt_of, uniform_hash
from keras_pruner.backend.optimizers import (
    clear_slots,
    get_steps,
    innermost,
    loss_scale_of,
    may_skip,
    moving_average_of,
    set_steps,
    slots_of,
)
from keras_pruner.backend.ordered_sums import (
    REDUCTIONS,
    all_finite,
    as_rows,
    count_true,
    ordered_sum,
    reduce_blocks,
    reduce_groups,
    rounded_square,
    running_sum,
    sum_blocks,
    sum_of_all,
)
from keras_pruner.backend.random_state import random_state, set_random_state

__all__ = [
    "CompiledFunction",
    "CompiledUpdate",
    "FunctionCache",
    "REDUCTIONS",
    "all_finite",
    "as_rows",
    "beside",
    "call_directly",
    "call_in_trace",
    "check_strategy",
    "clear_slots",
    "count_true",
    "derivative",
    "double_precision",
    "get_steps",
    "innermost",
    "is_divided",
    "layout_for",
    "loss_scale_of",
    "may_skip",
    "moving_average_of",
    "no_gradients",
    "num_replicas",
    "ordered_sum",
    "random_state",
    "reduce_blocks",
    "reduce_groups",
    "rounded_square",
    "running_sum",
    "salt_of",
    "set_random_state",
    "set_steps",
    "slots_of",
    "sum_blocks",
    "sum_of_all",
    "sum_over_replicas",
    "uniform_hash",
]
