"""What each criterion and pruner costs in a training step: bytes a weight, and time.

An MLP 784-1024-1024-10, batch 128, Adam, random data. Each method is attached, its
masks are made once, and then only steps are timed, without mask updates: rounds of
steps of all methods take turns in one process, and a ratio is of the medians of the
same rounds.

    python benchmarks/step_cost.py
    python benchmarks/step_cost.py --methods snip_momentum rigl --rounds 20
"""

import argparse
import platform
import time

import keras
import numpy as np

from keras_pruner import PruningCallback, __version__
from keras_pruner.masks import variable_of

METHODS = {
    "dense": None,
    "magnitude": {},
    "magnitude, 1 bit": {"mask_bits": 1},
    "gradient": {"criterion": "gradient"},
    "snip": {"criterion": "snip"},
    "snip_momentum": {"criterion": "snip_momentum"},
    "snip_momentum, low_memory_usage": {
        "criterion": "snip_momentum",
        "low_memory_usage": True,
    },
    "taylor": {"criterion": "taylor"},
    "taylor, 1xchannel": {"criterion": "taylor", "pattern": "1xchannel"},
    "fisher": {"criterion": "fisher"},
    "second_moment": {"criterion": "second_moment"},
    "movement": {"criterion": "movement"},
    "block_mask, 4x1": {"pruning_type": "block_mask", "pattern": "4x1"},
    "retrain_free, 1xchannel": {
        "pruning_type": "retrain_free",
        "pattern": "1xchannel",
    },
    "progressive, 4x1": {"pruning_type": "progressive", "pattern": "4x1"},
    "set": {"pruning_type": "set"},
    "rigl": {"pruning_type": "rigl"},
    "acdc": {"pruning_type": "acdc"},
    "top_kast": {"pruning_type": "top_kast"},
    "ste": {"pruning_type": "ste"},
    "sr_ste, 2:4": {
        "pruning_type": "sr_ste",
        "pattern": "2:4",
        "target_sparsity": 0.5,
    },
    "st3": {"pruning_type": "st3"},
    "feather": {"pruning_type": "feather"},
    "str": {"pruning_type": "str"},
    "lottery_ticket": {"pruning_type": "lottery_ticket"},
    "group_lasso, 4x1": {"regularizer": "group_lasso", "pattern": "4x1"},
    "growing_l2": {"regularizer": "growing_l2"},
}


class Contestant:
    """A model with a method attached, whose steps can be timed at any moment."""

    def __init__(self, settings, x, y, jit_compile):
        self.batch = x, y
        layers = keras.layers
        self.model = keras.Sequential(
            [
                layers.Input((784,)),
                layers.Dense(1024, activation="relu"),
                layers.Dense(1024, activation="relu"),
                # A multiple of four, for all patterns.
                layers.Dense(12),
            ]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.model.compile("adam", loss, jit_compile=jit_compile)
        self.pruner = None
        if settings is not None:
            self._attach({"target_sparsity": 0.9} | settings)
        self.seconds = []

    def _attach(self, settings):
        callback = PruningCallback(verbose=False, begin_step=3, end_step=3, **settings)
        callback.set_params({"epochs": 1, "steps": 5})
        callback.set_model(self.model)
        callback.on_train_begin()
        callback.on_epoch_begin(0)
        for number in range(5):
            self.model.train_on_batch(*self.batch)
            callback.on_train_batch_end(number)
        # Kept, or its optimizer would be put back.
        self.callback = callback
        (self.pruner,) = callback.pruners

    @property
    def bytes_per_weight(self):
        if self.pruner is None:
            return 0.0
        variables = list(map(variable_of, self.pruner.mask_variables.values()))
        for states in self.pruner.state_variables.values():
            variables += states.values()
        sizes = [
            np.dtype("uint16" if v.dtype == "bfloat16" else v.dtype).itemsize
            * int(np.prod(v.shape))
            for v in variables
        ]
        return sum(sizes) / self.pruner.num_weights

    def run(self, steps):
        start = time.perf_counter()
        for _ in range(steps):
            # It returns the loss as a number, so it waits for the step.
            self.model.train_on_batch(*self.batch)
        self.seconds.append((time.perf_counter() - start) / steps)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=8, help="steps in a round")
    parser.add_argument("--no-jit", action="store_true", help="without XLA")
    options = parser.parse_args()
    unknown = sorted(set(options.methods) - set(METHODS))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(METHODS)}")
    generator = np.random.default_rng(0)
    x = generator.random((128, 784)).astype("float32")
    y = generator.integers(0, 10, 128)
    names = ["dense", *(name for name in options.methods if name != "dense")]
    contestants = {
        name: Contestant(METHODS[name], x, y, not options.no_jit) for name in names
    }
    for contestant in contestants.values():
        contestant.run(options.steps)
        contestant.seconds.clear()
    for _ in range(options.rounds):
        for contestant in contestants.values():
            contestant.run(options.steps)
    print(
        f"keras_pruner {__version__}, Keras {keras.__version__} on "
        f"{keras.backend.backend()}, Python {platform.python_version()}; "
        f"{'without' if options.no_jit else 'with'} XLA, {options.rounds} rounds of "
        f"{options.steps} steps\n"
    )
    print("| method | bytes a weight | step / dense step (quartiles) |")
    print("|---|---|---|")
    dense = np.array(contestants["dense"].seconds)
    for name, contestant in contestants.items():
        ratios = np.array(contestant.seconds) / dense
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        print(
            f"| {name} | {contestant.bytes_per_weight:.2f} | "
            f"{middle:.2f} ({low:.2f} - {high:.2f}) |"
        )


if __name__ == "__main__":
    main()
