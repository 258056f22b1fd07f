"""Turns scores into exact masks with pure functions, and stores the masks."""

from keras_pruner.masks.apply import apply_mask, apply_mask_if_dense, finite_or
from keras_pruner.masks.budget import Demand, PruningPlan
from keras_pruner.masks.float_keys import ordered_keys
from keras_pruner.masks.joint_ranking import (
    Forecast,
    check_total,
    cuts_of,
    is_unbounded,
    rank_jointly,
)
from keras_pruner.masks.kth_lowest import as_counts, demand_of
from keras_pruner.masks.make import (
    HIGHEST_SCORE,
    LOWEST_SCORE,
    are_finite,
    expand_groups,
    score_groups,
    score_kernel,
    score_kernels,
    scores_are_pooled,
    select_groups,
    weight_scores,
    zero_groups,
)
from keras_pruner.masks.overlap_plan import OverlapPlan, plan_for
from keras_pruner.masks.packed_mask import (
    PackedMask,
    as_mask,
    as_stored,
    assign_mask,
    is_packed,
    mask_variable_spec,
    pack,
    read_mask,
    variable_of,
)
from keras_pruner.masks.select_lowest import (
    Chosen,
    Cut,
    PerOutput,
    select_lowest,
    select_lowest_per_output,
    select_up_to,
)
from keras_pruner.masks.state_format import (
    check_provenance,
    check_variables,
    read_state,
    write_state,
)
from keras_pruner.masks.unit import Unit, UnitInputs, UnitResult

__all__ = [
    "Chosen",
    "Cut",
    "Demand",
    "Forecast",
    "HIGHEST_SCORE",
    "LOWEST_SCORE",
    "OverlapPlan",
    "PackedMask",
    "PerOutput",
    "PruningPlan",
    "Unit",
    "UnitInputs",
    "UnitResult",
    "apply_mask",
    "apply_mask_if_dense",
    "are_finite",
    "as_counts",
    "as_mask",
    "as_stored",
    "assign_mask",
    "check_provenance",
    "check_total",
    "check_variables",
    "cuts_of",
    "demand_of",
    "expand_groups",
    "finite_or",
    "is_packed",
    "is_unbounded",
    "mask_variable_spec",
    "ordered_keys",
    "pack",
    "plan_for",
    "rank_jointly",
    "read_mask",
    "read_state",
    "score_groups",
    "score_kernel",
    "score_kernels",
    "scores_are_pooled",
    "select_groups",
    "select_lowest",
    "select_lowest_per_output",
    "select_up_to",
    "variable_of",
    "weight_scores",
    "write_state",
    "zero_groups",
]
