"""Runs a model and its copy on the same inputs."""

from keras_pruner.comparison.compare import (
    Comparison,
    check_copy,
    compare_models,
    compare_outputs,
    output_error,
    outputs_of,
    runnable_inputs,
    variation_of,
)
from keras_pruner.comparison.foreign import compare_foreign, draws_random_numbers
from keras_pruner.comparison.sample_inputs import (
    check_samples,
    sample_inputs,
    symbolic_inputs,
)

__all__ = [
    "Comparison",
    "check_copy",
    "check_samples",
    "compare_foreign",
    "compare_models",
    "compare_outputs",
    "draws_random_numbers",
    "output_error",
    "outputs_of",
    "runnable_inputs",
    "sample_inputs",
    "symbolic_inputs",
    "variation_of",
]
