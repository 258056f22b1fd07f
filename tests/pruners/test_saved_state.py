"""A pruner of a custom loop is saved and resumed exactly."""

import io
import re

import keras
import numpy as np
import pytest
from conftest import BACKEND, build_mlp, slow_where_compiled, value_of
from keras import ops

from keras_pruner import KerasBasePruner
from keras_pruner.pruners import PrunerGroup

STEPS = {"target_sparsity": 0.5, "begin_step": 1, "end_step": 9, "frequency": 2}
PRUNERS = {
    "basic": {},
    "gradients": {"criterion": "snip_momentum"},
    "rigl": {"pruning_type": "rigl"},
    "set": {"pruning_type": "set"},
    "dense": {"pruning_type": "ste"},
    "ticket": {"pruning_type": "lottery_ticket"},
    "progressive": {"pruning_type": "progressive", "pattern": "2x1"},
    "low_memory": {"criterion": "fisher", "low_memory_usage": True},
    "local": {"mask_bits": 1, "local_configs": [{"include": "head"}]},
    "pinned": {"resume_from_pruned_checkpoint": True},
}
needs_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="its checkpoints")


class Loop:
    """A loop with made-up gradients; all that it trains with is saved."""

    def __init__(self, **settings):
        keras.utils.set_random_seed(0)
        self.model, self.optimizer = build_mlp(), keras.optimizers.Adam(1e-2)
        kernel = self.model.layers[0].kernel
        value = value_of(kernel)
        kernel.assign(np.where(np.abs(value) < 0.05, 0.0, value))
        self.optimizer.build(self.model.trainable_variables)
        self.pruner = PrunerGroup(STEPS | settings, self.model)
        self.pruner.attach_optimizer(self.optimizer)

    def run(self, *steps):
        self.pruner.on_train_begin()
        for step in range(*steps):
            self.pruner.on_step_begin(step)
            generator = np.random.default_rng(step)
            variables = self.model.trainable_variables
            slopes = [
                ops.convert_to_tensor(generator.normal(size=v.shape), "float32")
                for v in variables
            ]
            pairs = self.pruner.on_before_optimizer_step(
                zip(slopes, variables, strict=True)
            )
            self.optimizer.apply_gradients(pairs)
            self.pruner.on_after_optimizer_step()
        return self

    def values(self):
        """All that the rest of a run depends on, as arrays."""
        found = [*self.model.variables, *self.optimizer.variables]
        state = self.pruner.state_dict()
        return [np.array(value_of(v)) for v in found] + [
            state[n] for n in sorted(state)
        ]


def save(loop):
    variables = [*loop.model.variables, *loop.optimizer.variables]
    return [np.array(value_of(v)) for v in variables], loop.pruner.state_dict()


def load(loop, saved):
    for variable, value in zip(
        [*loop.model.variables, *loop.optimizer.variables], saved[0], strict=True
    ):
        variable.assign(value)
    loop.pruner.load_state_dict(saved[1])
    return loop


def check_equal(one, two):
    for mine, other in zip(one.values(), two.values(), strict=True):
        np.testing.assert_array_equal(mine, other)


@slow_where_compiled
@pytest.mark.parametrize("stop", [1, 6])
@pytest.mark.parametrize("name", PRUNERS)
def test_resumed_loop_ends_bit_for_bit_as_the_whole_one(name, stop):
    whole = Loop(**PRUNERS[name]).run(12)
    saved = save(Loop(**PRUNERS[name]).run(stop))
    resumed = load(Loop(**PRUNERS[name]), saved)
    assert resumed.pruner.global_step == stop
    check_equal(resumed.run(stop, 12), whole)
    assert whole.pruner.current_sparsity_ratio > 0


def test_state_goes_through_files():
    loop = Loop(criterion="fisher", low_memory_usage=True).run(6)
    file = io.BytesIO()
    np.savez(file, **loop.pruner.state_dict())
    file.seek(0)
    from_npz = Loop(criterion="fisher", low_memory_usage=True)
    from_npz.pruner.load_state_dict(np.load(file))
    h5py = pytest.importorskip("h5py")
    from_h5 = Loop(criterion="fisher", low_memory_usage=True)
    with h5py.File("state", "w", driver="core", backing_store=False) as file:
        loop.pruner.save_own_variables(file.create_group("pruner"))
        from_h5.pruner.load_own_variables(file["pruner"])
    for other in (from_npz, from_h5):
        state, expected = other.pruner.state_dict(), loop.pruner.state_dict()
        assert state.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(state[name], array, err_msg=name)


@needs_tensorflow
@pytest.mark.parametrize(
    "name",
    ["basic", "gradients", pytest.param("rigl", marks=pytest.mark.slow), "dense"],
)
def test_tensorflow_checkpoint_resumes_bit_for_bit(name, tmp_path):
    import tensorflow as tf

    def manager_of(loop):
        checkpoint = tf.train.Checkpoint(
            model=loop.model, optimizer=loop.optimizer, pruner=loop.pruner
        )
        return tf.train.CheckpointManager(checkpoint, str(tmp_path), max_to_keep=2)

    whole = Loop(**PRUNERS[name]).run(12)
    first = Loop(**PRUNERS[name])
    manager = manager_of(first)
    first.run(4)
    manager.save()
    first.run(4, 6)
    manager.save()
    resumed = Loop(**PRUNERS[name])
    manager = manager_of(resumed)
    manager.checkpoint.restore(manager.latest_checkpoint).assert_consumed()
    assert resumed.pruner.global_step == 6
    check_equal(resumed.run(6, 12), whole)


@needs_tensorflow
def test_tensorflow_checkpoint_of_another_config_is_refused(tmp_path):
    import tensorflow as tf

    loop = Loop().run(6)
    path = tf.train.Checkpoint(pruner=loop.pruner).write(str(tmp_path / "point"))
    other = Loop(criterion="fisher")
    before = other.values()
    with pytest.raises(ValueError, match="was pruned with criterion=.*magnitude"):
        tf.train.Checkpoint(pruner=other.pruner).read(path)
    for mine, old in zip(other.values(), before, strict=True):
        np.testing.assert_array_equal(mine, old)


@needs_tensorflow
def test_count_of_compiled_steps_is_saved():
    import tensorflow as tf

    loop = Loop()
    count = tf.function(loop.pruner.on_after_optimizer_step)
    loop.pruner.update_masks(0.5)
    for _ in range(3):
        count()
    other = Loop()
    other.pruner.deserialize(loop.pruner.serialize())
    assert other.pruner.global_step == 3 and other.pruner.num_pruned == 76
    loop.pruner.load_state_dict(other.run(3, 7).pruner.state_dict())
    assert loop.pruner.global_step == 7
    count()
    assert loop.pruner.global_step == 8


def test_open_steps_keep_the_plan_of_the_saved_run():
    def planned(total):
        pruner = KerasBasePruner({"target_sparsity": 0.5}, build_mlp())
        pruner.schedule_steps(total)
        return pruner

    saved = planned(100)
    for _ in range(9):
        saved.on_step_begin(0)
        saved.on_after_optimizer_step()
    resumed = KerasBasePruner({"target_sparsity": 0.5}, build_mlp())
    resumed.load_state_dict(saved.state_dict())
    assert (resumed.end_step, resumed.global_step) == (75, 9)
    resumed = planned(200)
    resumed.load_state_dict(saved.state_dict())
    assert resumed.end_step == 75
    # A run that has ended leaves the plan of the next.
    saved.restore_counts(100, 75)
    resumed = planned(200)
    resumed.load_state_dict(saved.state_dict())
    assert resumed.end_step == 150


def broken_states(state):
    name = next(name for name in state if name.startswith("mask"))
    flipped = state[name].copy()
    flipped[0] ^= 1
    yield state | {name: flipped}, "is damaged"
    yield {key: value for key, value in state.items() if key != name}, "is damaged"
    yield state | {"header": state["header"][:-9]}, "is damaged"
    yield {}, "no pruning state"
    for settings, words in (
        ({"pattern": "1xchannel", "include": ".*"}, "pattern"),
        ({"criterion": "snip"}, "criterion"),
        ({"exclude": "head"}, "head"),
        ({"pruning_type": "ste"}, "pruning_type|no state 'dense'"),
    ):
        yield Loop(**settings).run(3).pruner.state_dict(), words


def test_state_that_is_damaged_or_does_not_fit_changes_nothing():
    loop = Loop().run(6)
    before = loop.values()
    for state, words in broken_states(loop.pruner.state_dict()):
        with pytest.raises(ValueError, match=words):
            loop.pruner.load_state_dict(state)
    with pytest.raises(TypeError, match="A state is a dict"):
        loop.pruner.load_state_dict(5)
    for part in (b"", loop.pruner.serialize()[:-30]):
        with pytest.raises(ValueError, match="damaged"):
            loop.pruner.deserialize(part)
    for mine, old in zip(loop.values(), before, strict=True):
        np.testing.assert_array_equal(mine, old)


def test_state_names_can_be_keys_of_files():
    for name, array in Loop().run(3).pruner.state_dict().items():
        assert re.fullmatch(r"[\w/]+", name) and isinstance(array, np.ndarray)
