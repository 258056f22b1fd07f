"""A loop that keeps weights and optimizer state as plain values."""

import keras
import numpy as np
import pytest
from conftest import BACKEND, build_mlp, kernels_of, value_of
from keras import ops

from keras_pruner import PruningCallback, StatelessPruner, wrap

needs_stateless_apply = pytest.mark.skipif(
    BACKEND == "tensorflow", reason="Keras has no stateless_apply on TensorFlow"
)
STEPS = {"target_sparsity": 0.5, "begin_step": 1, "end_step": 9, "frequency": 2}
PRUNERS = {
    "basic": {},
    "gradients": {"criterion": "snip_momentum"},
    "rigl": {"pruning_type": "rigl"},
    "dense": {"pruning_type": "ste"},
    "groups": {
        "pattern": "1xchannel",
        "local_configs": [{"include": "head", "target_sparsity": 0.25}],
    },
}
X = np.random.default_rng(1).random((16, 16)).astype("float32")
Y = np.random.default_rng(2).integers(0, 3, 16)


def made(**settings):
    keras.utils.set_random_seed(0)
    model = build_mlp()
    optimizer = keras.optimizers.Adam(1e-2)
    return model, StatelessPruner(model, optimizer, **(STEPS | settings))


def step_of(model, optimizer):
    """The step of Keras' guide, with the batch in it."""
    loss_fn = keras.losses.SparseCategoricalCrossentropy()
    rest = [ops.convert_to_tensor(v) for v in model.non_trainable_variables]

    def loss_of(weights):
        outputs, _ = model.stateless_call(weights, rest, X, training=True)
        return loss_fn(Y, outputs)

    if BACKEND == "jax":
        import jax

        def step(weights, slots):
            gradients = jax.grad(loss_of)(weights)
            return optimizer.stateless_apply(slots, gradients, weights)

        return jax.jit(step)

    def gradients_of(weights):
        from keras_pruner.backend import derivative

        return derivative(loss_of)(weights)

    return lambda weights, slots: optimizer.stateless_apply(
        slots, gradients_of(weights), weights
    )


def run(model, pruner, state=None, steps=12):
    """Trains, and returns the last state without assigning it."""
    step = step_of(model, pruner.optimizer)
    weights, slots = pruner.values() if state is None else state
    for _ in range(steps):
        weights, slots = pruner.update(weights, slots)
        weights, slots = step(weights, slots)
    return weights, slots


@needs_stateless_apply
@pytest.mark.parametrize("name", PRUNERS)
def test_stateless_loop_ends_as_fit_does(name):
    model, pruner = made(**PRUNERS[name])
    pruner.end(*run(model, pruner))
    keras.utils.set_random_seed(0)
    fitted = build_mlp()
    fitted.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    callback = PruningCallback(STEPS | PRUNERS[name], verbose=False)
    fitted.fit(X, Y, 16, 12, shuffle=False, verbose=0, callbacks=[callback])
    assert pruner.sparsity == callback.sparsity > 0.3
    assert pruner.group.global_step == 12
    np.testing.assert_array_equal(kernels_of(model) == 0, kernels_of(fitted) == 0)
    np.testing.assert_allclose(
        kernels_of(model), kernels_of(fitted), rtol=1e-3, atol=1e-5
    )


@needs_stateless_apply
@pytest.mark.parametrize("name", PRUNERS)
def test_state_of_a_stateless_loop_resumes_bit_for_bit(name):
    whole = run(*made(**PRUNERS[name]))
    half = run(*made(**PRUNERS[name]), steps=5)
    saved = [[np.array(value_of(v)) for v in part] for part in half]
    restored = [[ops.convert_to_tensor(v) for v in part] for part in saved]
    model, pruner = made(**PRUNERS[name])
    ended = run(model, pruner, restored, steps=7)
    for one, two in zip([*whole[0], *whole[1]], [*ended[0], *ended[1]], strict=True):
        np.testing.assert_array_equal(value_of(one), value_of(two))


@needs_stateless_apply
def test_zeros_of_a_checkpoint_are_pinned_when_the_pruner_is_made():
    keras.utils.set_random_seed(0)
    model = build_mlp()
    kernel = value_of(model.layers[0].kernel).copy()
    kernel[:8] = 0
    model.layers[0].kernel.assign(kernel)
    pruner = StatelessPruner(
        model, keras.optimizers.SGD(0.1), STEPS, resume_from_pruned_checkpoint=True
    )
    weights, _ = run(model, pruner)
    assert (value_of(weights[0])[:8] == 0).all()


@needs_stateless_apply
def test_count_is_read_only_when_an_update_may_be_due(monkeypatch):
    model, pruner = made(begin_step=0, end_step=100, frequency=50)
    reads = []
    convert = ops.convert_to_numpy
    index = [v is pruner.optimizer.step for v in pruner.optimizer.variables].index(True)
    weights, slots = pruner.values()

    def updated(count):
        values = list(slots)
        values[index] = ops.convert_to_tensor(count, dtype=slots[index].dtype)
        reads.append(0)
        monkeypatch.setattr(ops, "convert_to_numpy", counted)
        pruner.update(weights, values)
        monkeypatch.undo()
        return reads.pop()

    def counted(value):
        reads[-1] += 1
        return convert(value)

    # Two steps a call: the second call learns it.
    counts = [updated(2 * call) for call in range(60)]
    assert [call for call, count in enumerate(counts) if count] == [0, 1, 25, 50]
    assert pruner.group.pruners[0].updated_at == 100


@needs_stateless_apply
def test_lists_that_do_not_fit_are_refused():
    model, pruner = made()
    weights, slots = pruner.values()
    inner = keras.optimizers.Adam()
    inner.build(model.trainable_variables)
    with pytest.raises(ValueError, match="`optimizer` of the pruner in place of your"):
        pruner.update(weights, inner.variables)
    with pytest.raises(ValueError, match="shape.*Nothing was assigned"):
        pruner.update(weights[::-1], slots)
    kernel = value_of(model.layers[0].kernel)
    np.testing.assert_array_equal(kernel, value_of(weights[0]))


@needs_stateless_apply
def test_open_steps_and_wrapped_layers_are_refused():
    with pytest.raises(ValueError, match="begin_step.*schedule_steps|leaves"):
        StatelessPruner(build_mlp(), keras.optimizers.SGD(), target_sparsity=0.5)
    pruner = StatelessPruner(
        build_mlp(), keras.optimizers.SGD(), total_steps=8, target_sparsity=0.5
    )
    assert pruner.group.end_step == 6
    with pytest.raises(ValueError, match="PrunedLayer"):
        StatelessPruner(wrap(build_mlp()), keras.optimizers.SGD(), STEPS)


@needs_stateless_apply
def test_end_warns_if_the_target_is_not_reached(caplog):
    model, pruner = made()
    pruner.end(*run(model, pruner, steps=3))
    assert "ended at step 3" in caplog.text


@needs_stateless_apply
def test_update_in_a_compiled_function_is_refused():
    if BACKEND == "torch":
        pytest.skip("torch runs such code eagerly")
    from keras_pruner.backend import CompiledFunction

    _, pruner = made()
    weights, slots = pruner.values()
    with pytest.raises(ValueError, match="outside of the `tf.function` or `jax.jit`"):
        CompiledFunction(lambda w, s: pruner.update(w, s)[0])(weights, slots)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="other backends can")
def test_tensorflow_is_referred_to_the_hooks():
    with pytest.raises(ValueError, match="hooks of `KerasBasePruner`"):
        made()
