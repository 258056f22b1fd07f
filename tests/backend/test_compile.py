"""Which compiled functions are shared, kept and dropped, and that they sum exactly."""

import collections
import subprocess
import sys
import weakref

import keras
import numpy as np
import pytest
from conftest import BACKEND, slow_where_compiled, value_of
from keras import layers, ops

from keras_pruner import KerasBasePruner
from keras_pruner.backend import CompiledFunction, compile, of_session
from keras_pruner.components import CRITERIA
from keras_pruner.pruners import teller
from keras_pruner.pruners.mask_maker import signature_of

ON_TENSORFLOW = BACKEND == "tensorflow"
of_tensorflow = pytest.mark.skipif(not ON_TENSORFLOW, reason="of TensorFlow's code")
CONFIG = {"target_sparsity": 0.5, "begin_step": 0, "end_step": 0}


def pruner_of(shape=(24, 10), kind=KerasBasePruner, **settings):
    layer = layers.Dense(shape[1], name="fc")
    layer.build((None, shape[0]))
    generator = np.random.default_rng(0)
    layer.kernel.assign(generator.standard_normal(shape, "float32"))
    return kind(CONFIG | settings, {"fc": layer})


def shared():
    return of_session("keras_pruner_functions", collections.OrderedDict)


@pytest.mark.usefixtures("with_and_without_xla")
def test_a_compiled_sum_keeps_its_order():
    generator = np.random.default_rng(0)
    parts = [
        ops.convert_to_tensor(generator.standard_normal((64, 64), "float32"))
        for _ in range(4)
    ]

    def tree(a, b, c, d):
        return (a + b) + (c + d)

    # In another order one in two sums rounds differently.
    made = value_of(CompiledFunction(tree)(*parts))
    np.testing.assert_array_equal(made, value_of(tree(*parts)))


@of_tensorflow
@pytest.mark.usefixtures("always_xla")
def test_pruners_of_one_kind_share_what_xla_compiled():
    first, second = pruner_of(), pruner_of(target_sparsity=0.8)
    first.update_masks()
    kept = list(shared().values())
    second.update_masks()
    assert kept == list(shared().values())
    assert second.num_pruned == 192
    assert second.updater.trace_count == second.updater.num_compiled > 0
    # Other settings make other functions.
    pruner_of(allocation="global").update_masks()
    assert len(shared()) > len(kept)


@of_tensorflow
@pytest.mark.usefixtures("always_xla")
def test_shared_functions_hold_no_pruner(collect_garbage):
    pruner = pruner_of()
    pruner.update_masks()
    assert shared()
    variable = weakref.ref(pruner.kernels[0].variable)
    pruner = weakref.ref(pruner)
    collect_garbage()
    assert pruner() is None and variable() is None


@of_tensorflow
@pytest.mark.usefixtures("always_xla")
@pytest.mark.parametrize("owner", ["pruner", "criterion"])
def test_functions_of_a_class_of_yours_are_not_shared(owner):
    class Scaled(CRITERIA["magnitude"]):
        factor = 1.0

        def scores(self, weight, kernel):
            return super().scores(weight, kernel) * self.factor

    class Own(KerasBasePruner):
        factor = 1.0

        def score_unit(self, unit, inputs):
            scores = super().score_unit(unit, inputs)
            return [score * self.factor for score in scores]

    def make(factor):
        if owner == "pruner":
            kind = type("Own", (Own,), {})
            pruner = pruner_of(kind=kind)
            pruner.factor = factor
        else:
            criterion = Scaled()
            criterion.factor = factor
            pruner = pruner_of(criterion=criterion)
        return pruner

    lowest, highest = make(1.0), make(-1.0)
    for pruner in (lowest, highest):
        assert signature_of(pruner) is None
        pruner.update_masks()
    one, other = (value_of(p.masks["fc"]) for p in (lowest, highest))
    np.testing.assert_array_equal(one, ~other)


@of_tensorflow
def test_small_functions_live_as_long_as_their_pruner():
    pruner = pruner_of()
    pruner.update_masks()
    assert pruner.updater.num_compiled > 0
    assert not shared()


@pytest.mark.skipif(BACKEND == "torch", reason="torch compiles nothing here")
@pytest.mark.usefixtures("always_xla")
def test_a_session_keeps_the_latest_functions_and_drops_all_at_its_end(monkeypatch):
    monkeypatch.setattr(compile, "NUM_SHARED", 3)
    pruner_of((24, 10)).update_masks()
    before = list(shared().values())
    pruner = pruner_of((20, 11))
    pruner.update_masks()
    assert len(before) == len(shared()) == 3
    assert before != list(shared().values())

    keras.backend.clear_session(free_memory=False)
    assert not shared()
    # A living pruner still has its own.
    traced = pruner.updater.trace_count
    pruner.update_masks()
    assert pruner.num_pruned == 110
    assert pruner.updater.trace_count == traced


def test_an_update_that_compiles_for_long_says_so(monkeypatch):
    class Timer:
        """Runs at once, as if much time had passed."""

        daemon = False

        def __init__(self, seconds, function, arguments):
            self.start = lambda: function(*arguments)

        def cancel(self):
            pass

    lines = []
    monkeypatch.setattr(teller.threading, "Timer", Timer)
    pruner = pruner_of()
    pruner.updater.tell.show = lines.append
    pruner.update_masks(0.0)
    assert lines == []
    pruner.update_masks(0.3)
    assert len(lines) == 1 and "Compiling the mask update" in lines[0]
    if BACKEND != "torch":
        pruner.update_masks(0.5)
        assert len(lines) == 1


ON_ONE_THREAD = """
import keras
import numpy as np
import tensorflow as tf
from keras import ops

tf.config.threading.set_inter_op_parallelism_threads(1)

from keras_pruner import PruningCallback
from keras_pruner.backend import CompiledFunction


def branches(x):
    inner = lambda: ops.cond(x[0] > 2, lambda: x * 2, lambda: -x)
    return ops.cond(x[0] > 0, inner, lambda: x)


for value in 3.0, 1.0, -1.0:
    print(float(CompiledFunction(branches)(ops.full((2,), value))[0]))
model = keras.Sequential([keras.layers.Input((16,)), keras.layers.Dense(8)])
model.compile("adam", "mse")
callback = PruningCallback(target_sparsity=0.75)
x, y = np.ones((96, 16)), np.ones((96, 8))
model.fit(x, y, epochs=2, batch_size=16, verbose=0, callbacks=[callback])
print(callback.sparsity)
"""


@slow_where_compiled
@of_tensorflow
def test_branches_wait_for_no_second_thread():
    # Before, TensorFlow waited for ever, as it did on a machine with one core.
    printed = subprocess.run(
        [sys.executable, "-c", ON_ONE_THREAD], check=True, capture_output=True
    ).stdout
    assert list(map(float, printed.split())) == [6, -1, -1, 0.75]
