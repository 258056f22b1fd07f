"""What pruning costs: mask updates, training steps, memory and compile time.

Every sub-command prints markdown tables of ratios. Both sides of a ratio take turns in
one process.

    python benchmarks/speed.py update                   patterns, 4096 x 4096
    python benchmarks/speed.py sizes --largest 1e9      1x1, from 1e4 weights on
    python benchmarks/speed.py ranking                  all of ResNet50V2 together
    python benchmarks/speed.py step --frequency 1       against the dense step
    python benchmarks/speed.py memory
    python benchmarks/speed.py compile
    python benchmarks/speed.py all --smoke              tiny, to see that all runs
    python benchmarks/speed.py update --tfmot-python PATH
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import time

import keras
import numpy as np
from keras import ops
from timing import Report, interleave, ratios

from keras_pruner import PruningCallback
from keras_pruner.compiled import CompiledFunction
from keras_pruner.packing import variable_of
from keras_pruner.pruners import create_pruners
from keras_pruner.training import keep

LIMIT = "W * mask"
PATTERNS = {"1x1": 0.9, "4x4": 0.9, "2:4": 0.5, "1xchannel": 0.9}


def wait(tensor):
    """Returns when a tensor is there, also where a backend computes ahead."""
    ops.convert_to_numpy(ops.reshape(tensor, (-1,))[:1])


class Update:
    """A kernel or model whose mask update can be timed, and one pass over it."""

    def __init__(self, modules, sparsity=0.9, **settings):
        settings = {"target_sparsity": sparsity} | settings
        (self.pruner,) = create_pruners(settings, modules)
        self.kernels = [kernel.variable for kernel in self.pruner.kernels]
        self.weights = [ops.convert_to_numpy(kernel) for kernel in self.kernels]
        generator = np.random.default_rng(1)
        self.masks = [
            ops.convert_to_tensor(generator.random(w.shape, "float32") < 0.5)
            for w in self.weights
        ]
        self.keep = CompiledFunction(keep)
        self.share = 0.5

    def update(self):
        """Makes new masks from the dense weights; returns the seconds of that alone."""
        for kernel, weight in zip(self.kernels, self.weights, strict=True):
            kernel.assign(weight)
        wait(self.kernels[-1])
        # Another target each time: nothing may be remembered from the last update.
        self.share = self.share + 0.03 if self.share < 0.9 else 0.5
        start = time.perf_counter()
        self.pruner.update_masks(self.share * self.pruner.target_sparsity_ratio)
        wait(self.kernels[-1])
        return time.perf_counter() - start

    def limit(self):
        """Multiplies every kernel with a bool mask, compiled."""
        for kernel, mask in zip(self.kernels, self.masks, strict=True):
            result = self.keep(kernel, mask)
        wait(result)

    def numpy(self):
        """The same selection by `np.partition`, without ties."""
        for weight in self.weights:
            scores = np.abs(weight).ravel()
            k = int(0.9 * scores.size)
            weight * (np.abs(weight) > np.partition(scores, k)[k])


def normal(size):
    """Returns a variable of about `size` normal weights, nearly square."""
    rows = 2 ** int(np.log2(size) / 2)
    shape = rows, int(size) // rows
    value = np.random.default_rng(0).standard_normal(shape, "float32")
    return keras.Variable(value, trainable=True, name="kernel")


def run_update(options, report):
    """Mask updates of one kernel, by pattern."""
    size = 64**2 if options.smoke else 4096**2
    kernel = normal(size)
    for pattern, sparsity in PATTERNS.items():
        update = Update(
            {"kernel": kernel}, sparsity, pattern=pattern, allocation="uniform"
        )
        contestants = {LIMIT: update.limit, "keras_pruner": update.update}
        if pattern == "1x1":
            contestants["np.partition"] = update.numpy
        seconds = interleave(contestants, options.rounds)
        kernel.assign(update.weights[0])
        rows = ratios(seconds, LIMIT)
        # tfmot has no channels, and its n:m masks are not made by this entry point.
        if options.tfmot_python and pattern in ("1x1", "4x4"):
            rows["tfmot"] = tfmot_update(options, pattern, tuple(kernel.shape))
        report.table(f"update of {tuple(kernel.shape)}, {pattern}", rows, LIMIT)


def tfmot_update(options, pattern, shape):
    """Returns a row of tfmot's update against its own `W * mask`, in its own Python."""
    script = os.path.join(os.path.dirname(__file__), "tfmot_speed.py")
    command = [options.tfmot_python, script, pattern, *map(str, shape)]
    command.append(str(min(options.rounds, 5)))
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def run_sizes(options, report):
    """Single weights, from ten thousand on."""
    largest = 1e5 if options.smoke else options.largest
    for exponent in range(4, 10):
        if 10**exponent <= largest:
            update = Update({"kernel": normal(10**exponent)}, allocation="uniform")
            contestants = {LIMIT: update.limit, "keras_pruner": update.update}
            rounds = options.rounds if exponent < 9 else min(3, options.rounds)
            seconds = interleave(contestants, rounds)
            report.table(f"update of 1e{exponent}, 1x1", ratios(seconds, LIMIT), LIMIT)


def residual_network(smoke=False):
    if smoke:
        return small_convolutional()
    return keras.applications.ResNet50V2(
        weights=None, input_shape=(64, 64, 3), classes=10
    )


def run_ranking(options, report):
    """All kernels of a model, ranked together."""
    model = residual_network(options.smoke)
    for allocation in ("global", "global_l2", "uniform"):
        update = Update(model, allocation=allocation)
        contestants = {LIMIT: update.limit, "keras_pruner": update.update}
        seconds = interleave(contestants, options.rounds)
        for kernel, weight in zip(update.kernels, update.weights, strict=True):
            kernel.assign(weight)
        report.table(
            f"update of ResNet50V2, {allocation}", ratios(seconds, LIMIT), LIMIT
        )


def run_compile(options, report):
    """The first update against the second."""
    rows = {}
    for allocation in ("uniform", "global_l2"):
        update = Update(residual_network(options.smoke), allocation=allocation)
        first, second = update.update(), update.update()
        pruner = update.pruner
        rows[allocation] = [first, second, len(pruner.kernels), pruner.num_compiled]
    columns = ["first update, s", "second, s", "kernels", "compiled functions"]
    report.values("compile time of ResNet50V2", columns, rows)


def mlp():
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((784,)),
            layers.Dense(1024, activation="relu"),
            layers.Dense(1024, activation="relu"),
            layers.Dense(10),
        ]
    ), 128


def small_convolutional():
    layers = keras.layers
    model = keras.Sequential([layers.Input((32, 32, 3))])
    for filters in (32, 64, 128):
        model.add(layers.Conv2D(filters, 3, padding="same", activation="relu"))
        model.add(layers.MaxPooling2D())
    model.add(layers.Flatten())
    model.add(layers.Dense(10))
    return model


def transformer():
    layers = keras.layers
    x = inputs = keras.Input((64, 256))
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(4, 64)(x, x))
    y = layers.Dense(256)(layers.Dense(1024, activation="gelu")(x))
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x + y))
    return keras.Model(inputs, layers.Dense(10)(x)), 16


MODELS = {
    "mlp": mlp,
    "convolutional": lambda: (small_convolutional(), 64),
    "transformer": transformer,
    "resnet": lambda: (residual_network(), 8),
}


class Training:
    """A model whose training steps can be timed, inside one run of `fit`."""

    def __init__(self, build, jit_compile, steps, rounds, frequency=None):
        model, batch = build()
        generator = np.random.default_rng(0)
        x = generator.random((batch * steps, *model.input_shape[1:]), "float32")
        self.data, self.batch = (x, generator.integers(0, 10, len(x))), batch
        self.model, self.steps, self.jit_compile = model, steps, jit_compile
        self.settings = None
        if frequency is not None:
            # From dense to the target, over all epochs that are timed.
            self.settings = {
                "target_sparsity": 0.9,
                "begin_step": 0,
                "end_step": steps * (rounds + 1),
                "frequency": frequency,
            }
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        # Slow, since what has learnt these few batches by heart has gradients so small
        # that processors take many times as long for them.
        adam = keras.optimizers.Adam(1e-5)
        model.compile(adam, loss, jit_compile=jit_compile)

    def rounds(self):
        """Returns a generator of the seconds of one epoch of `fit` after another."""
        return _Rounds(self)


class _Rounds(keras.callbacks.Callback):
    """Runs `fit` in a thread of its own, an epoch whenever it is asked to."""

    def __init__(self, training):
        super().__init__()
        import threading

        self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.training, self.is_over = training, False
        self.thread = threading.Thread(target=self._fit, daemon=True)
        self.thread.start()

    def _fit(self):
        training = self.training
        callbacks = [self]
        if training.settings is not None:
            callbacks.append(PruningCallback(training.settings, verbose=False))
        x, y = training.data
        training.model.fit(
            x,
            y,
            batch_size=training.batch,
            epochs=10**6,
            shuffle=False,
            verbose=0,
            callbacks=callbacks,
        )
        self.done.release()

    def on_epoch_begin(self, epoch, logs=None):
        self.go.acquire()
        if self.is_over:
            self.model.stop_training = True
        self.start = time.perf_counter()

    def on_train_batch_begin(self, batch, logs=None):
        if self.is_over:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        self.seconds = time.perf_counter() - self.start
        if not self.is_over:
            self.done.release()

    def epoch(self):
        """Trains one epoch, and returns its seconds."""
        self.go.release()
        self.done.acquire()
        return self.seconds

    def end(self):
        self.is_over = True
        self.go.release()
        self.thread.join()


def run_step(options, report):
    """Training steps of `fit`, mask updates included, against dense ones."""
    for name in options.models:
        for jit_compile in (True, False):
            steps = 3 if options.smoke else 100
            frequencies = (1,) if options.smoke else options.frequency
            plan = MODELS[name], jit_compile, steps, options.rounds
            contestants = {"dense": Training(*plan)}
            for frequency in frequencies:
                made = Training(*plan, frequency)
                contestants[f"frequency {frequency}"] = made
            rounds = {key: made.rounds() for key, made in contestants.items()}
            seconds = interleave(
                {key: made.epoch for key, made in rounds.items()}, options.rounds
            )
            for made in rounds.values():
                made.end()
            seconds = {key: value / steps for key, value in seconds.items()}
            title = f"step of {name}, {'jit' if jit_compile else 'no jit'}"
            report.table(title, ratios(seconds, "dense"), "dense")


def run_memory(options, report):
    """Bytes of a pruner's variables, and what updates of one kernel hold at their peak.

    The peak is of resident memory, each row in a process of its own, beyond weights and
    masks; a score takes 4 bytes a weight.
    """
    rows = {}
    for pattern, sparsity in PATTERNS.items():
        for bits in (8, 1):
            settings = {"target_sparsity": sparsity, "pattern": pattern}
            settings["mask_bits"] = bits
            (pruner,) = create_pruners(settings, {"kernel": normal(64**2)})
            variables = list(map(variable_of, pruner.mask_variables.values()))
            for states in pruner.state_variables.values():
                variables += states.values()
            size = sum(ops.convert_to_numpy(variable).nbytes for variable in variables)
            rows[f"{pattern}, {bits}-bit mask"] = [size / pruner.num_weights]
    report.values("memory", ["bytes a weight"], rows)
    size = 1e5 if options.smoke else options.largest
    rows = {}
    cases = itertools.product(("uniform", "global"), ("1x1", "4x4"), (8, 1))
    for allocation, pattern, bits in list(cases)[-1:] if options.smoke else cases:
        row = f"{allocation}, {pattern}, {bits}-bit mask"
        rows[row] = update_memory(size, allocation, pattern, bits)
    columns = ["first update, times the scores", "second"]
    report.values(f"peak memory of updates, {size:g} weights", columns, rows)


def update_memory(size, allocation, pattern, mask_bits):
    """Returns the peaks of two updates over the bytes of the scores."""
    script = os.path.join(os.path.dirname(__file__), "update_memory.py")
    command = [sys.executable, script, "--size", str(size)]
    command += ["--allocation", allocation, "--pattern", pattern]
    command += ["--mask-bits", str(mask_bits)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


COMMANDS = {
    "update": run_update,
    "sizes": run_sizes,
    "ranking": run_ranking,
    "step": run_step,
    "memory": run_memory,
    "compile": run_compile,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=[*COMMANDS, "all"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--largest", type=float, default=1e8, help="sizes, memory")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--frequency", type=int, nargs="+", default=[1, 100])
    parser.add_argument("--tfmot-python", help="Python with tfmot and tf-keras")
    parser.add_argument("--json", help="where to save the results")
    parser.add_argument(
        "--smoke", action="store_true", help="tiny, to see that it runs"
    )
    options = parser.parse_args()
    if options.smoke:
        options.rounds, options.models = 2, ["mlp"]
    report = Report("python benchmarks/speed.py " + " ".join(sys.argv[1:]))
    for name, run in COMMANDS.items():
        if options.what in (name, "all"):
            run(options, report)
    report.finish(options.json)


if __name__ == "__main__":
    main()
