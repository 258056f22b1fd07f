"""What pruning costs: mask updates, training steps, memory and compile time.

Every sub-command prints markdown tables of ratios. Both sides of a ratio take turns in
one process.

    python benchmarks/speed.py update                   patterns, 4096 x 4096
    python benchmarks/speed.py sizes --largest 1e9      patterns, from 1e4 weights on
    python benchmarks/speed.py ranking                  all of ResNet50V2 together
    python benchmarks/speed.py step --frequency 1       against the dense step
    python benchmarks/speed.py inference                stripped and wrapped models
    python benchmarks/speed.py memory
    python benchmarks/speed.py compile
    python benchmarks/speed.py all --smoke              tiny, to see that all runs
    python benchmarks/speed.py update --tfmot-python PATH --pquant-python PATH
"""

import argparse
import functools
import itertools
import json
import os
import subprocess
import sys
import threading
import time

import keras
import numpy as np
from keras import ops
from timing import Report, interleave, ratios

from keras_pruner import PruningCallback, strip, wrap
from keras_pruner.backend import CompiledFunction
from keras_pruner.masks import apply_mask, variable_of
from keras_pruner.pruners import create_pruners

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
        self.apply_mask = CompiledFunction(apply_mask)
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
            result = self.apply_mask(kernel, mask)
        wait(result)

    def numpy(self):
        """The same selection by `np.partition`, without ties."""
        for weight in self.weights:
            scores = np.abs(weight).ravel()
            k = int(0.9 * scores.size)
            weight * (np.abs(weight) > np.partition(scores, k)[k])


def normal(size):
    """Returns a variable of about `size` normal weights, nearly square, in fours."""
    rows = 2 ** int(np.log2(size) / 2)
    shape = rows, int(size) // rows // 4 * 4
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
        shape = list(map(str, kernel.shape))
        rounds = str(min(options.rounds, 5))
        # tfmot has no channels, and its n:m masks are not made by this entry point.
        if options.tfmot_python and pattern in ("1x1", "4x4"):
            command = [options.tfmot_python, "tfmot_speed.py", pattern]
            rows["tfmot"] = peer_row(*command, *shape, rounds)
        if options.pquant_python and pattern == "1x1":
            command = [options.pquant_python, "pquant_speed.py", "update"]
            rows["PQuantML"] = peer_row(*command, *shape, rounds)
        report.table(f"update of {tuple(kernel.shape)}, {pattern}", rows, LIMIT)


def peer_row(python, script, *arguments):
    """Returns a row of another package against its own limit, in its own Python."""
    script = os.path.join(os.path.dirname(__file__), script)
    command = [python, script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def run_sizes(options, report):
    """Mask updates by pattern, from ten thousand weights on."""
    largest = 1e5 if options.smoke else options.largest
    for pattern in options.patterns:
        for exponent in range(4, 10):
            if 10**exponent > largest:
                continue
            update = Update(
                {"kernel": normal(10**exponent)},
                PATTERNS[pattern],
                pattern=pattern,
                allocation="uniform",
            )
            contestants = {LIMIT: update.limit, "keras_pruner": update.update}
            rounds = options.rounds if exponent < 9 else min(3, options.rounds)
            rows = ratios(interleave(contestants, rounds), LIMIT)
            report.table(f"update of 1e{exponent}, {pattern}", rows, LIMIT)
            # What the next one needs may be half of the memory there is.
            del update, contestants


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
    models = {"MLP": mlp()[0], "ResNet50V2": residual_network(options.smoke)}
    for name, model in models.items():
        for allocation in ("uniform", "global_l2"):
            update = Update(model, allocation=allocation)
            first, second = update.update(), update.update()
            pruner = update.pruner
            counts = [len(pruner.kernels), pruner.updater.num_compiled]
            rows[f"{name}, {allocation}"] = [first, second, *counts]
    columns = ["first update, s", "second, s", "kernels", "compiled functions"]
    report.values("compile time", columns, rows)


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


class Training(keras.callbacks.Callback):
    """A model in one run of `fit`, in a thread of its own, some steps at a time.

    A step is timed from its beginning to that of the next one: callbacks are a part.

    Args:
        build: Function that returns a model and its batch size.
        jit_compile: Whether the training step is compiled by XLA.
        num_steps: Steps that are trained in all.
        frequency: Steps between two mask updates; `None` trains a dense model.
    """

    def __init__(self, build, jit_compile, num_steps, frequency=None):
        super().__init__()
        model, batch = build()
        generator = np.random.default_rng(0)
        # Updates and ends of epochs, which take time of their own, seldom coincide.
        x = generator.random((batch * 70, *model.input_shape[1:]), "float32")
        y = generator.integers(0, 10, len(x))
        callbacks = [self]
        self.pruning = None
        if frequency is not None:
            # Over all steps that are timed; and so often that updates are compiled as
            # in a run of usual length.
            settings = {
                "target_sparsity": 0.9,
                "begin_step": 0,
                "end_step": max(num_steps, 20 * frequency),
                "frequency": frequency,
            }
            self.pruning = PruningCallback(settings, verbose=False)
            callbacks.append(self.pruning)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        # Slow, since what has learnt these few batches by heart has gradients so small
        # that processors take many times as long for them.
        adam = keras.optimizers.Adam(1e-5)
        model.compile(adam, loss, jit_compile=jit_compile)
        self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.wanted = self.left = 0
        self.begun, self.has_ended = None, False

        def fit():
            try:
                model.fit(
                    x,
                    y,
                    batch_size=batch,
                    epochs=10**6,
                    shuffle=False,
                    verbose=0,
                    callbacks=callbacks,
                )
            finally:
                self.has_ended = True
                self.done.release()

        self.thread = threading.Thread(target=fit, daemon=True)
        self.thread.start()

    def on_train_batch_begin(self, batch, logs=None):
        counts = self._counts()
        if self.begun is not None:
            seconds = time.perf_counter() - self.begun
            updated, compiled = (
                now != then for now, then in zip(counts, self.counts, strict=True)
            )
            self.steps.append((seconds, None if compiled else updated))
        if self.left == 0:
            if self.begun is not None:
                self.done.release()
            self.go.acquire()
            self.steps, self.left = [], max(1, self.wanted)
            self.model.stop_training = self.wanted == 0
        self.left -= 1
        self.counts = counts
        self.begun = time.perf_counter()

    def _counts(self):
        """Returns when masks were updated last, and how much has been compiled."""
        pruners = () if self.pruning is None else self.pruning.pruners
        return (
            [pruner.updated_at for pruner in pruners],
            [pruner.updater.trace_count for pruner in pruners],
        )

    def run(self, num_steps):
        """Trains some steps.

        Returns:
            List of a pair for each: its seconds, and whether it updated masks; `None`
            for an update that compiled something.
        """
        self.wanted = num_steps
        self.go.release()
        self.done.acquire()
        if self.has_ended:
            raise RuntimeError("`fit` ended before its time.")
        return self.steps

    def end(self):
        self.wanted = 0
        self.go.release()
        self.thread.join()


def run_step(options, report):
    """Training steps of `fit`, with and without a mask update, against dense ones."""
    turn, rounds = (2, 2) if options.smoke else (10, 4 * options.rounds)
    for name in options.models:
        for jit_compile in (jit == "yes" for jit in options.jit):
            plan = MODELS[name], jit_compile, turn * (rounds + 1)
            contestants = {
                frequency: Training(*plan, frequency)
                for frequency in (None, *options.frequency)
            }
            steps = {frequency: [] for frequency in contestants}
            for number in range(rounds + 1):
                for frequency, training in contestants.items():
                    timed = training.run(turn)
                    # The first turn compiles.
                    if number:
                        steps[frequency].append(timed)
            for training in contestants.values():
                training.end()
            jit, rows = "jit" if jit_compile else "no jit", step_rows(steps)
            if options.pquant_python and name == "mlp":
                command = [options.pquant_python, "pquant_speed.py", "step"]
                command.append(jit.replace(" ", "-"))
                rows["PQuantML, every step"] = peer_row(*command, str(options.rounds))
            report.table(f"step of {name}, {jit}", rows, "dense")


def step_rows(steps):
    """Returns rows of steps over the median of the dense steps of the same turn.

    Args:
        steps: Dict from a frequency, or `None` for dense, to a list of what
            `Training.run` returned.
    """
    rows = {}
    for frequency, turns in steps.items():
        kinds = {False: [], True: []}
        for dense, turn in zip(steps[None], turns, strict=True):
            one = np.median([seconds for seconds, _ in dense])
            for is_update in kinds:
                seconds = [s for s, updated in turn if updated == is_update]
                if seconds:
                    kinds[is_update].append((np.median(seconds), one))
        if frequency is None:
            rows["dense"] = _row(kinds[False])
            continue
        plain, update = kinds[False], kinds[True]
        if plain:
            rows[f"frequency {frequency}, without update"] = plain = _row(plain)
        if update:
            rows[f"frequency {frequency}, with update"] = update = _row(update)
        if plain and update:
            share = 1 / frequency
            rows[f"frequency {frequency}, mean"] = {
                key: _mean(plain[key], update[key], share) for key in plain
            }
    return rows


def _row(pairs):
    seconds, limit = np.array(pairs).T
    return ratios({"step": seconds, "dense": limit}, "dense")["step"]


def _mean(plain, update, share):
    if isinstance(plain, list):
        return [_mean(p, u, share) for p, u in zip(plain, update, strict=True)]
    return round((1 - share) * plain + share * update, 3)


def run_inference(options, report):
    """A batch through a model that was pruned and stripped, and one still wrapped."""
    for name in options.models:
        model, batch = MODELS[name]()
        wrapped = wrap(model)
        (pruner,) = create_pruners({"target_sparsity": 0.9}, wrapped)
        pruner.update_masks()
        shape = (batch, *model.input_shape[1:])
        x = np.random.default_rng(0).random(shape, "float32")
        models = {"dense": model, "stripped": strip(wrapped), "wrapped": wrapped}
        for contestant in models.values():
            contestant.compile(jit_compile=True)
        contestants = {
            label: functools.partial(predict, contestant, x)
            for label, contestant in models.items()
        }
        seconds = interleave(contestants, 4 * options.rounds)
        report.table(f"inference of {name}", ratios(seconds, "dense"), "dense")


def predict(model, x):
    model.predict_on_batch(x)


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
        rows[row] = update_memory(
            size,
            *("--allocation", allocation, "--pattern", pattern),
            *("--mask-bits", str(bits)),
        )
    rows["selection alone"] = update_memory(size, "--selection")
    columns = ["first update, times the scores", "second"]
    report.values(f"peak memory of updates, {size:g} weights", columns, rows)


def update_memory(size, *arguments):
    """Returns the peaks of two updates over the bytes of the scores."""
    script = os.path.join(os.path.dirname(__file__), "update_memory.py")
    command = [sys.executable, script, "--size", str(size), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


COMMANDS = {
    "update": run_update,
    "sizes": run_sizes,
    "ranking": run_ranking,
    "step": run_step,
    "inference": run_inference,
    "memory": run_memory,
    "compile": run_compile,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=[*COMMANDS, "all"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--largest", type=float, default=1e8, help="sizes, memory")
    parser.add_argument(
        "--patterns", nargs="+", choices=PATTERNS, default=list(PATTERNS), help="sizes"
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--frequency", type=int, nargs="+", default=[1, 100])
    parser.add_argument(
        "--jit", nargs="+", choices=["yes", "no"], default=["yes", "no"]
    )
    parser.add_argument("--tfmot-python", help="Python with tfmot and tf-keras")
    parser.add_argument("--pquant-python", help="Python with pquant-ml and TensorFlow")
    parser.add_argument("--json", help="where to save the results")
    parser.add_argument(
        "--smoke", action="store_true", help="tiny, to see that it runs"
    )
    options = parser.parse_args()
    if options.smoke:
        options.rounds, options.models, options.frequency = 2, ["mlp"], [1, 2]
    report = Report("python benchmarks/speed.py " + " ".join(sys.argv[1:]))
    for name, run in COMMANDS.items():
        if options.what in (name, "all"):
            run(options, report)
    report.finish(options.json)


if __name__ == "__main__":
    main()
