"""Trains under `tf.distribute` strategies and prints as JSON what came out.

TensorFlow takes the number of its devices before it starts, so `test_devices.py` runs
this in processes of its own:

    python devices_tensorflow.py mirrored 2
    python devices_tensorflow.py resume 2 FOLDER
    python devices_tensorflow.py worker 0 PORT PORT
"""

import json
import os
import sys

import keras
import numpy as np
import tensorflow as tf

from keras_pruner import BackupAndResume, KerasBasePruner, PruningCallback, wrap
from keras_pruner.masks import variable_of

GLOBAL_BATCH = 8
SETTINGS = {"target_sparsity": 0.5, "begin_step": 1, "end_step": 5, "frequency": 2}


def data():
    generator = np.random.default_rng(0)
    x = generator.random((48, 16)).astype("float32")
    return x, generator.integers(0, 3, 48)


def build_model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.layers.Input((16,)),
            keras.layers.Dense(8, activation="relu", name="hidden"),
            keras.layers.Dense(3, activation="softmax", name="head"),
        ]
    )


def copies(variable):
    """The values that the replicas hold of a variable."""
    return [value.numpy() for value in getattr(variable.value, "values", [variable])]


def are_copies_equal(variables):
    return all(
        np.array_equal(copies(variable)[0], copy)
        for variable in variables
        for copy in copies(variable)
    )


def fit(strategy, callback, wrapped=False):
    with strategy.scope():
        model = wrap(build_model(), SETTINGS) if wrapped else build_model()
        model.compile("adam", "sparse_categorical_crossentropy")
    x, y = data()
    model.fit(x, y, GLOBAL_BATCH, verbose=0, shuffle=False, callbacks=[callback])
    return model


def result_of(pruner, model):
    """What must be equal wherever the model was trained, and whether copies are."""
    states = [s for d in pruner.state_variables.values() for s in d.values()]
    masks = list(pruner.mask_variables.values())
    variables = [variable_of(mask) for mask in masks]
    return {
        "num_copies": len(copies(variables[0])),
        "copies_equal": are_copies_equal([*variables, *states, *model.variables]),
        "masks": [np.asarray(mask).astype(int).tolist() for mask in masks],
        "states": [state.numpy().astype(float).tolist() for state in states],
        "weights": [weight.tolist() for weight in model.get_weights()],
        "pruned": pruner.num_pruned,
    }


CASES = {
    "wrapped": ({}, True),
    "sr_ste": ({"pruning_type": "sr_ste", "pruner_options": {"decay": 0.5}}, False),
    "rigl": ({"pruning_type": "rigl", "frequency": 1}, False),
    "packed": ({"pruning_type": "rigl", "frequency": 1, "mask_bits": 1}, False),
}

REFUSED = {
    "jit_compile": {"jit_compile": True},
    "steps_per_execution": {"steps_per_execution": 2},
    "gradient_accumulation_steps": {
        "optimizer": lambda: keras.optimizers.Adam(gradient_accumulation_steps=2)
    },
    "ema_overwrite_frequency": {
        "optimizer": lambda: keras.optimizers.Adam(
            use_ema=True, ema_overwrite_frequency=2
        )
    },
}


def refusal(strategy, optimizer=keras.optimizers.Adam, **compile_settings):
    """The message of a run that Keras cannot do, if the model is left as it was."""
    with strategy.scope():
        model = build_model()
        optimizer = optimizer()
        model.compile(optimizer, "sparse_categorical_crossentropy", **compile_settings)
    try:
        model.fit(*data(), verbose=0, callbacks=[PruningCallback(target_sparsity=0.5)])
    except ValueError as error:
        return str(error) if model.optimizer is optimizer else "optimizer was replaced"
    return "not refused"


def mirrored(num_devices):
    """Fits on one device and on several, and asks for what Keras cannot do."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * num_devices
    )
    # One for all: the collective operations of a second one would meet the first's.
    strategy = tf.distribute.MirroredStrategy([f"CPU:{n}" for n in range(num_devices)])
    found = {}
    for name, (settings, wrapped) in CASES.items():
        for where, scope in (("one", tf.distribute.get_strategy()), ("all", strategy)):
            callback = PruningCallback(SETTINGS | settings, verbose=False)
            model = fit(scope, callback, wrapped)
            found[f"{name}/{where}"] = result_of(callback.pruners[0], model)
    found["refused"] = {
        name: refusal(strategy, **settings) for name, settings in REFUSED.items()
    }
    return found


class Cut(Exception):
    pass


class CutAfter(keras.callbacks.Callback):
    """Ends a run by an exception after an epoch."""

    def __init__(self, last):
        super().__init__()
        self.last = last

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.last:
            raise Cut


def resume(num_devices, folder):
    """Cuts runs on several devices and goes on, each time by another kind of file."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * num_devices
    )
    tf.config.experimental.enable_op_determinism()
    strategy = tf.distribute.MirroredStrategy([f"CPU:{n}" for n in range(num_devices)])

    def run(*callbacks, model=None, first=0, criterion="snip_momentum"):
        pruning = PruningCallback(
            target_sparsity=0.5, criterion=criterion, verbose=False
        )
        with strategy.scope():
            if model is None:
                model = build_model()
                model.compile("adam", "sparse_categorical_crossentropy")
        arguments = {"shuffle": False, "verbose": 0, "initial_epoch": first}
        x, y = data()
        model.fit(x, y, GLOBAL_BATCH, 4, callbacks=[pruning, *callbacks], **arguments)
        return result_of(pruning.pruners[0], model) | {
            "step": pruning.pruners[0].global_step,
            "end_step": pruning.pruners[0].end_step,
            "optimizer": [v.numpy().tolist() for v in model.optimizer.variables],
        }

    backups = {
        "BackupAndRestore": lambda: keras.callbacks.BackupAndRestore(
            f"{folder}/restore"
        ),
        "BackupAndResume": lambda: BackupAndResume(f"{folder}/resume"),
    }
    file = f"{folder}/half.keras"
    found = {"whole": run()}
    for name, make in backups.items():
        try:
            run(make(), CutAfter(1))
        except Cut:
            found[name] = run(make())
    try:
        run(keras.callbacks.ModelCheckpoint(file), CutAfter(1))
    except Cut:
        with strategy.scope():
            loaded = keras.models.load_model(file)
        found["load_model"] = run(model=loaded, first=2)
        with strategy.scope():
            loaded = keras.models.load_model(file)
        try:
            run(model=loaded, first=2, criterion="fisher")
        except ValueError as error:
            found["refused"] = str(error)
    return found


def batches(worker, num_workers):
    """Each worker's part of every global batch."""
    x, y = data()
    part = GLOBAL_BATCH // num_workers
    for start in range(worker * part, len(x), GLOBAL_BATCH):
        yield tf.constant(x[start : start + part]), tf.constant(y[start : start + part])


def make_step(strategy, model, apply):
    """A compiled step of a loop of one's own."""
    loss_fn = keras.losses.SparseCategoricalCrossentropy(reduction="sum")

    def step_of_replica(x, y):
        with tf.GradientTape() as tape:
            loss = loss_fn(y, model(x, training=True)) / GLOBAL_BATCH
        gradients = tape.gradient(loss, model.trainable_variables)
        apply(zip(gradients, model.trainable_variables, strict=True))

    return tf.function(lambda x, y: strategy.run(step_of_replica, args=(x, y)))


def loop_with_hooks(strategy, worker, num_workers, inside=False):
    """A loop that calls the last hook inside of `strategy.run`, or outside."""
    with strategy.scope():
        model, optimizer = build_model(), keras.optimizers.Adam()
        optimizer.build(model.trainable_variables)
    pruner = KerasBasePruner(SETTINGS, model)

    def apply(pairs):
        optimizer.apply_gradients(pruner.on_before_optimizer_step(pairs))
        if inside:
            pruner.on_after_optimizer_step()

    step = make_step(strategy, model, apply)
    pruner.on_train_begin()
    for number, (x, y) in enumerate(batches(worker, num_workers)):
        pruner.on_step_begin(number)
        step(x, y)
        if not inside:
            pruner.on_after_optimizer_step()
        pruner.on_step_end()
    pruner.on_train_end()
    return result_of(pruner, model)


def loop_with_callbacks(strategy, worker, num_workers):
    with strategy.scope():
        model = build_model()
        model.compile("adam", "sparse_categorical_crossentropy")
    callback = PruningCallback(SETTINGS, criterion="fisher", verbose=False)
    callbacks = keras.callbacks.CallbackList([callback], model=model, epochs=1, steps=6)
    callbacks.on_train_begin()
    step = make_step(strategy, model, lambda p: model.optimizer.apply_gradients(p))
    callbacks.on_epoch_begin(0)
    for number, (x, y) in enumerate(batches(worker, num_workers)):
        callbacks.on_train_batch_begin(number)
        step(x, y)
        callbacks.on_train_batch_end(number)
    callbacks.on_epoch_end(0)
    callbacks.on_train_end()
    return result_of(callback.pruners[0], model)


def refused_hooks(strategy, worker, num_workers):
    """The message where hooks would see a part of the gradient only."""
    with strategy.scope():
        model = build_model()
    pruner = KerasBasePruner(SETTINGS | {"criterion": "fisher"}, model)
    step = make_step(strategy, model, pruner.on_before_optimizer_step)
    try:
        step(*next(batches(worker, num_workers)))
    except ValueError as error:
        return str(error)
    return "not refused"


def work(worker, ports):
    """Runs the loops as one of several workers; `worker` is its number."""
    if ports:
        workers = [f"127.0.0.1:{port}" for port in ports]
        os.environ["TF_CONFIG"] = json.dumps(
            {
                "cluster": {"worker": workers},
                "task": {"type": "worker", "index": worker},
            }
        )
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    else:
        strategy = tf.distribute.get_strategy()
    found = {
        "hooks": loop_with_hooks(strategy, worker, max(1, len(ports))),
        "inside": loop_with_hooks(strategy, worker, max(1, len(ports)), inside=True),
        "callbacks": loop_with_callbacks(strategy, worker, max(1, len(ports))),
    }
    if ports:
        found["refused"] = refused_hooks(strategy, worker, max(1, len(ports)))
    return found


if __name__ == "__main__":
    task, *rest = sys.argv[1:]
    if task == "mirrored":
        print(json.dumps(mirrored(*map(int, rest))))
    elif task == "resume":
        print(json.dumps(resume(int(rest[0]), rest[1])))
    else:
        numbers = [int(number) for number in rest]
        print(json.dumps(work(numbers[0], numbers[1:])))
