"""A mask update of tensorflow-model-optimization, for `speed.py`.

`speed.py` runs it, with a Python that has tensorflow-model-optimization and tf-keras:
`tfmot_speed.py PATTERN ROWS COLUMNS ROUNDS`. It prints a row of the table as JSON.
"""

import os
import sys

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from peers import in_turns, print_row  # noqa: E402
from tensorflow_model_optimization.python.core.sparsity.keras import (  # noqa: E402
    pruning_impl,
)


def main():
    pattern, rows, columns, rounds = sys.argv[1], *map(int, sys.argv[2:])
    value = np.random.default_rng(0).standard_normal((rows, columns)).astype("float32")
    weight = tf.Variable(value)
    mask, threshold = tf.Variable(tf.ones_like(weight)), tf.Variable(0.0)
    block = tuple(map(int, pattern.split("x")))
    settings = {"block_size": block, "sparsity_m_by_n": None}
    pruning = pruning_impl.Pruning(
        training_step_fn=lambda: 0,
        pruning_vars=[(weight, mask, threshold)],
        pruning_schedule=lambda step: (tf.constant(True), tf.constant(0.9)),
        block_pooling_type="AVG",
        **settings,
    )
    update = tf.function(pruning.conditional_mask_update)
    limit = tf.function(
        lambda: tf.where(mask > 0, weight, 0.0), jit_compile=True, autograph=False
    )

    def run_update():
        update()
        mask.numpy()

    print_row(*in_turns(run_update, lambda: limit()[0, 0].numpy(), rounds))


if __name__ == "__main__":
    main()
