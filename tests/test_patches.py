"""Every change to Keras, to torch and to a user's objects: where it is, and undone."""

import ast
import pathlib
import pickle

import keras
import pytest
from conftest import compile_mlp

import keras_pruner
from keras_pruner import PrunedLayer, PruningCallback, prune_at_init
from keras_pruner.backend import Patch, class_with_fit

PACKAGE = pathlib.Path(keras_pruner.__file__).parent

# File -> attributes that it replaces by `Patch`.
PATCHES = {
    "channels/symbolic_calls.py": "calls and losses of layers, variables, operations",
    "comparison/compare.py": "call of layers, to find the first that differs",
    "oneshot/inputs/containers.py": "call and inner_loop of RNN, attention, wrappers",
    "oneshot/inputs/watch.py": "call of layers whose inputs are collected",
    "oneshot/at_init/synaptic_flow.py": "dtype policy, activation and call of layers",
    "oneshot/recovery/distill.py": "stateful of recurrent layers",
    "pytorch/grad_scaler.py": "step of torch.amp.GradScaler",
    "pytorch/one_shot/module_calls.py": "forward of classes that a module overrides",
    "slimming/cutting/unrolled.py": "sublayers of a layer that is unrolled",
    "reporting/engines/open_vino.py": "call of a model that torch traces",
    "reporting/cost/sizes.py": "optimizer and compiled of a model that is saved",
    "slimming/shrinking/live_weights.py": "call of layers and sums that are watched",
    "compat/tfmot/pruning_wrapper.py": "prunable_kernels of a layer that lacks it",
    "training/cloning.py": "compiled of models that are copied",
    "training/custom_objects.py": "names of functions while a model is copied",
    "backend/keras_private.py": (
        "arguments of a wrapper; rematerialization and dtype policy of a layer; "
        "add_weight of layers that are rebuilt"
    ),
    "backend/inference.py": (
        "tensors that layers keep and lists of variables, while a model is exported"
    ),
    "backend/variable_view.py": "kernels of layers in wrappers",
    "training/fit/fit_attachment.py": "save, load_weights and others of a model in fit",
    "training/fit/fit_guard.py": "fit of Keras' trainer, for the time of the process",
    "training/pruned_layer.py": "save_own_variables, quantize, enable_lora of a layer",
    "training/saving/variable_matching.py": "load_own_variables of a loaded optimizer",
}


def sources():
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text())


def called(node):
    function = node.func
    return getattr(function, "id", getattr(function, "attr", None))


def test_patches_are_where_the_list_says():
    found = {
        name
        for name, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and called(node) == "Patch"
    }
    assert found == set(PATCHES)


def test_nothing_is_patched_by_other_means():
    found = []
    for name, tree in sources():
        for node in ast.walk(tree):
            is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            if is_call and node.func.id in ("setattr", "delattr"):
                found.append(name)
            if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
                text = ast.unparse(node.value)
                if "__dict__" in text or text.startswith("vars("):
                    found.append(name)
    # The wrapper passes on what a user assigns to it; a duplicate is a new object.
    assert set(found) == {
        "backend/duplicate.py",
        "backend/patch.py",
        "training/wrapper_optimizer.py",
    }


def test_the_call_stack_is_not_read():
    names = {"_getframe", "currentframe", "f_back", "f_locals", "stack"}
    found = [
        name
        for name, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in names
        if ast.unparse(node.value) not in ("np", "ops", "keras.ops", "torch")
    ]
    assert found == []


def test_patch_restores_attributes_of_classes_and_objects():
    class Thing:
        shared = 1
        own = None

        @property
        def managed(self):
            return self.kept

        @managed.setter
        def managed(self, value):
            self.kept = value

    thing = Thing()
    thing.managed, thing.own = 5, "own"
    on_object = Patch(thing, managed=6, own="other", new=7)
    on_class = Patch(Thing, shared=2, added=3)
    assert (thing.kept, thing.own, thing.new) == (6, "other", 7)
    assert (Thing.shared, Thing.added) == (2, 3)
    for patch in (on_class, on_object):
        patch.undo()
        patch.undo()
    assert vars(thing) == {"kept": 5, "own": "own"}
    assert Thing.shared == 1 and not hasattr(Thing, "added")


class Stop(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        raise KeyboardInterrupt


@pytest.mark.parametrize("fails", [False, True])
def test_fit_leaves_model_and_optimizer_without_a_trace(data, fails):
    model = compile_mlp()
    optimizer = model.optimizer
    optimizer.build(model.trainable_variables)
    before = set(vars(model)), set(vars(optimizer)), set(vars(keras.Model))
    callbacks = [PruningCallback(target_sparsity=0.5, verbose=False)]
    callbacks += [Stop()] if fails else []
    try:
        model.fit(*data, batch_size=16, verbose=0, callbacks=callbacks)
    except KeyboardInterrupt:
        assert fails
    assert model.optimizer is optimizer
    after = set(vars(model)), set(vars(optimizer)), set(vars(keras.Model))
    assert before[0] <= after[0]
    assert not {"save", "save_weights", "load_weights"} & after[0]
    assert after[1:] == before[1:]


def test_keras_has_one_guarded_fit_that_pickles():
    trainer = class_with_fit()
    assert trainer.fit.is_guarded and not hasattr(trainer.fit.__wrapped__, "is_guarded")
    assert "fit" not in vars(keras.Model)
    assert pickle.loads(pickle.dumps(keras.Model.fit)) is keras.Model.fit


def test_a_trainer_that_is_mixed_in_keeps_its_fit():
    class MyTrainer(class_with_fit()):
        def fit(self, *args, **kwargs):
            return "mine"

    class MyModel(keras.Model, MyTrainer):
        pass

    assert MyModel().fit() == "mine"


@pytest.mark.parametrize("fails", [False, True])
def test_synaptic_flow_leaves_layers_without_a_trace(fails):
    model = keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.Dense(4, activation="tanh"),
            keras.layers.LayerNormalization(),
            keras.layers.Dense(2),
        ]
    )
    if fails:
        model.layers[-1].kernel.assign(keras.ops.zeros((4, 2)))
    before = [dict(vars(layer)) for layer in model.layers]
    settings = {"criterion": "synflow", "in_place": True, "verbose": False}
    if fails:
        with pytest.raises(ValueError, match="synaptic flow of the model is zero"):
            prune_at_init(model, target_sparsity=0.5, **settings)
    else:
        prune_at_init(model, target_sparsity=0.5, **settings)
    for layer, attributes in zip(model.layers, before, strict=True):
        assert set(vars(layer)) == set(attributes)
        assert layer.dtype_policy.name == "float32"
        assert getattr(layer, "activation", None) is attributes.get("activation")


def test_wrapper_layers_pass_gradients_only_while_they_are_pruned(data):
    wrapped = [
        PrunedLayer(keras.layers.Dense(8, activation="relu")),
        PrunedLayer(keras.layers.Dense(3, activation="softmax")),
    ]
    model = compile_mlp(keras.Sequential([keras.Input((16,)), *wrapped]))
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append([layer.straight_through for layer in wrapped])

    settings = {"criterion": "snip", "target_sparsity": 0.5, "verbose": False}
    model.fit(
        *data, batch_size=48, verbose=0, callbacks=[PruningCallback(**settings), Look()]
    )
    assert seen == [[True, True]] * 2
    assert [layer.straight_through for layer in wrapped] == [False, False]


def test_a_model_that_is_compiled_again_keeps_nothing_of_the_first_attachment():
    model = compile_mlp()
    callback = PruningCallback(target_sparsity=0.5, verbose=False)
    callback.set_model(model)
    compile_mlp(model, "sgd")
    callback.set_model(model)
    assert {"save", "load_weights"} <= set(vars(model))
    # `evaluate` and `predict` set the model, too, but train nothing.
    callback.on_test_begin()
    # On torch Keras makes an optimizer of a class of its own.
    assert isinstance(model.optimizer, keras.optimizers.SGD)
    assert not {"save", "load_weights"} & set(vars(model))


def test_a_callback_in_evaluate_within_fit_stays_attached(data):
    model = compile_mlp()
    callback = PruningCallback(target_sparsity=0.5, verbose=False)
    optimizers = []

    class Evaluate(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            before = self.model.optimizer
            self.model.evaluate(*data, verbose=0, callbacks=[callback])
            optimizers.append((before, self.model.optimizer))

    model.fit(
        *data, batch_size=16, epochs=2, verbose=0, callbacks=[callback, Evaluate()]
    )
    assert all(before is after for before, after in optimizers)
    assert callback.sparsity == 0.5
