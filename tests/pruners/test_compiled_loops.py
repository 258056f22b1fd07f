"""Step hooks inside of a `tf.function`, and hooks that refuse to be compiled."""

import keras
import numpy as np
import pytest
from conftest import BACKEND, build_mlp, first_where_compiled, kernels_of, value_of
from keras import ops

from keras_pruner import KerasBasePruner, create_pruners
from keras_pruner.pruners import PrunerGroup

STEPS = {"target_sparsity": 0.5, "begin_step": 1, "end_step": 9, "frequency": 2}
PRUNERS = {
    "basic": {},
    "regularized": {"regularizer": "l1", "regularizer_strength": 1e-3},
    "gradients": {"criterion": "snip_momentum"},
    "rigl": {"pruning_type": "rigl"},
    "dense": {"pruning_type": "ste"},
    "packed": {"mask_bits": 1},
}
X = np.random.default_rng(1).random((16, 16)).astype("float32")
Y = np.random.default_rng(2).integers(0, 3, 16)
loss_fn = keras.losses.SparseCategoricalCrossentropy()
needs_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.function")
needs_jax = pytest.mark.skipif(BACKEND != "jax", reason="jax.jit")


class Loop:
    """A loop of one's own whose train step TensorFlow may compile."""

    def __init__(self, **settings):
        keras.utils.set_random_seed(0)
        self.model, self.optimizer = build_mlp(), keras.optimizers.Adam(1e-2)
        self.optimizer.build(self.model.trainable_variables)
        self.pruner = PrunerGroup(STEPS | settings, self.model)
        self.pruner.attach_optimizer(self.optimizer)
        self.step = self.take_step

    def compile(self, **arguments):
        import tensorflow as tf

        self.step = tf.function(self.take_step, **arguments)
        return self

    def gradients(self):
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = loss_fn(Y, self.model(X, training=True))
        return tape.gradient(loss, self.model.trainable_variables)

    def take_step(self):
        pairs = zip(self.gradients(), self.model.trainable_variables, strict=True)
        self.optimizer.apply_gradients(self.pruner.on_before_optimizer_step(pairs))
        self.pruner.on_after_optimizer_step()

    def run(self, steps=12):
        self.pruner.on_train_begin()
        for number in range(steps):
            self.pruner.on_step_begin(number)
            self.step()
            self.pruner.on_step_end()
        self.pruner.on_train_end()
        return self


def check_same(one, two):
    assert one.pruner.global_step == two.pruner.global_step == 12
    assert one.pruner.is_done and two.pruner.is_done
    assert one.pruner.num_pruned == two.pruner.num_pruned > 0
    for path, mask in one.pruner.masks.items():
        np.testing.assert_array_equal(value_of(mask), value_of(two.pruner.masks[path]))
    for mine, other in zip(one.pruner.pruners, two.pruner.pruners, strict=True):
        for path, states in mine.state_variables.items():
            for key, state in states.items():
                expected = value_of(other.state_variables[path][key])
                np.testing.assert_allclose(value_of(state), expected, 1e-3, 1e-5)
    weights = [kernels_of(loop.model) for loop in (one, two)]
    np.testing.assert_array_equal(weights[0] == 0, weights[1] == 0)
    np.testing.assert_allclose(*weights, rtol=1e-3, atol=1e-5)


@needs_tensorflow
@pytest.mark.parametrize("name", first_where_compiled(PRUNERS))
def test_compiled_step_ends_as_the_eager_one(name):
    loop = Loop(**PRUNERS[name]).compile()
    check_same(loop.run(), Loop(**PRUNERS[name]).run())
    # Python ran once, and the hooks in every step.
    assert loop.step.experimental_get_tracing_count() == 1


@needs_tensorflow
def test_hooks_work_in_a_step_that_xla_compiles():
    settings = {"criterion": "snip_momentum", "local_configs": [{"include": "head"}]}
    check_same(Loop(**settings).compile(jit_compile=True).run(), Loop(**settings).run())


@needs_tensorflow
def test_eager_and_compiled_steps_of_one_loop_add_up():
    loop = Loop()
    compiled = Loop.compile(loop).step
    numbers = iter(range(12))
    loop.step = lambda: compiled() if next(numbers) % 3 else loop.take_step()
    check_same(loop.run(), Loop().run())


@needs_tensorflow
def test_steps_in_a_compiled_loop_are_counted():
    import tensorflow as tf

    loop = Loop(begin_step=0, end_step=8, frequency=4)

    @tf.function
    def four_steps():
        for _ in tf.range(4):
            loop.take_step()

    loop.step = four_steps
    loop.run(steps=3)
    assert loop.pruner.global_step == 12 and loop.pruner.current_sparsity_ratio == 0.5


@needs_tensorflow
def test_accumulated_gradients_make_one_step():
    import tensorflow as tf

    loop, calls = Loop(begin_step=0, end_step=2, frequency=1), tf.Variable(0)

    @tf.function
    def accumulating_step():
        calls.assign_add(1)
        if calls % 3 == 0:
            loop.take_step()

    loop.step = accumulating_step
    loop.run(steps=12)
    assert loop.pruner.global_step == 4 and loop.pruner.current_sparsity_ratio == 0.5
    assert (kernels_of(loop.model) == 0).sum() == loop.pruner.num_pruned


@needs_tensorflow
def test_own_train_step_may_call_the_hooks_in_fit():
    import tensorflow as tf

    class Trained(keras.Sequential):
        def train_step(self, batch):
            x, y = batch
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x, y, self(x, training=True))
            slopes = tape.gradient(loss, self.trainable_variables)
            pairs = zip(slopes, self.trainable_variables, strict=True)
            self.optimizer.apply_gradients(pruner.on_before_optimizer_step(pairs))
            pruner.on_after_optimizer_step()
            return {"loss": loss}

    keras.utils.set_random_seed(0)
    model = Trained([keras.Input((16,)), *build_mlp().layers])
    (pruner,) = create_pruners(STEPS | {"criterion": "fisher"}, model)
    hooks = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: pruner.on_train_begin(),
        on_train_batch_begin=lambda batch, logs: pruner.on_step_begin(batch),
        on_train_end=lambda logs: pruner.on_train_end(),
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(X, Y, batch_size=4, epochs=3, verbose=0, callbacks=[hooks])
    assert pruner.global_step == 12 and pruner.current_sparsity_ratio == 0.5
    assert (kernels_of(model) == 0).sum() == pruner.num_pruned


@needs_tensorflow
@pytest.mark.parametrize(
    "hook", ["on_step_begin", "update_if_due", "update_masks", "on_train_begin", "end"]
)
@pytest.mark.parametrize("grouped", [False, True])
def test_hook_that_decides_in_python_refuses_to_be_traced(hook, grouped):
    import tensorflow as tf

    model = build_mlp()
    pruner = (PrunerGroup if grouped else KerasBasePruner)(STEPS, model)
    calls = {"on_step_begin": (0,), "end": ()}
    name = "on_train_end" if hook == "end" else hook

    @tf.function
    def step():
        getattr(pruner, name)(*calls.get(hook, ()))

    before = kernels_of(model)
    with pytest.raises(ValueError, match=f"`{name}` decides.*outside of the `tf.func"):
        step()
    np.testing.assert_array_equal(kernels_of(model), before)
    assert pruner.num_pruned == 0


@needs_tensorflow
@pytest.mark.parametrize("inside", ["before", "after"])
@pytest.mark.parametrize("name", ["gradients", "dense"])
def test_hooks_that_share_gradients_are_compiled_together(inside, name):
    import tensorflow as tf

    loop = Loop(**PRUNERS[name])
    pruner, variables = loop.pruner, loop.model.trainable_variables

    def before():
        slopes = loop.gradients()
        pairs = pruner.on_before_optimizer_step(zip(slopes, variables, strict=True))
        return [gradient for gradient, _ in pairs]

    after = pruner.on_after_optimizer_step
    if inside == "before":
        before = tf.function(before)
    else:
        after = tf.function(after)
    pruner.on_train_begin()
    pruner.on_step_begin(0)
    before()
    with pytest.raises(ValueError, match="Call both inside of the same `tf.function`"):
        after()
    assert pruner.global_step == 0


@needs_jax
def test_hooks_of_a_step_refuse_to_be_jitted():
    import jax

    model = build_mlp()
    pruner = KerasBasePruner(STEPS, model)
    kernel = model.layers[0].kernel
    pruner.on_train_begin()

    def before(gradient):
        return pruner.on_before_optimizer_step([(gradient, kernel)])[0][0]

    def after(gradient):
        pruner.on_after_optimizer_step()
        return gradient

    for hook in (before, after):
        with pytest.raises(ValueError, match="jax.jit.*use `StatelessPruner`"):
            jax.jit(hook)(ops.ones((16, 8)))
    with pytest.raises(ValueError, match="`update_masks` decides.*StatelessPruner"):
        jax.jit(lambda x: pruner.update_masks() or x)(1.0)
    # Nothing holds a value of the trace.
    np.testing.assert_array_equal(value_of(kernel) == 0, np.zeros((16, 8), bool))


@pytest.mark.skipif(BACKEND != "torch", reason="torch.compile")
def test_hooks_in_a_step_that_torch_compiles():
    import torch

    def run(compiled):
        keras.utils.set_random_seed(0)
        model, optimizer = build_mlp(), keras.optimizers.Adam(1e-2)
        optimizer.build(model.trainable_variables)
        pruner = KerasBasePruner(STEPS | {"criterion": "fisher"}, model)

        def apply(slopes):
            pairs = zip(slopes, model.trainable_variables, strict=True)
            with torch.no_grad():
                optimizer.apply_gradients(pruner.on_before_optimizer_step(pairs))
                pruner.on_after_optimizer_step()

        if compiled:
            apply = torch.compile(apply, backend="eager")
        pruner.on_train_begin()
        for number in range(12):
            pruner.on_step_begin(number)
            model.zero_grad()
            loss_fn(Y, model(X, training=True)).backward()
            apply([variable.value.grad for variable in model.trainable_variables])
        pruner.on_train_end()
        assert pruner.global_step == 12 and pruner.is_done
        return kernels_of(model)

    np.testing.assert_array_equal(run(True), run(False))
