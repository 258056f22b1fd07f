"""Every pattern on every kind of layer: a mask that is right, or a reason to skip.

NumPy judges the masks. It sees each kernel through the axes of its layer, written
down here once more, and shares no code with the package.
"""

import dataclasses
import functools
import re
from collections.abc import Callable
from fractions import Fraction

import keras
import numpy as np
import pytest
from conftest import BACKEND, slow_where_compiled, value_of
from keras import layers, ops

from keras_pruner.backend import CompiledFunction
from keras_pruner.config import PruningConfig
from keras_pruner.pruners import KerasBasePruner, mask_updater

N_OF_M = ("1:4", "2:4", "3:4", "5:8", "6:8")
BLOCKS = ("4x1", "1x4", "4x2", "8x2", "16x1", "32x1")
CHANNELS = ("channelx1", "1xchannel")
PATTERNS = (*N_OF_M, *BLOCKS, *CHANNELS)

# Sizes that divide, and sizes that mostly do not.
SIZES = {
    "even": {"inputs": 32, "outputs": 64, "depth": 4, "multiplier": 32, "heads": 4},
    "odd": {"inputs": 6, "outputs": 10, "depth": 5, "multiplier": 3, "heads": 2},
}


# The kernels of a kind of layer as (window positions, inputs, groups, outputs of one
# group). The kernel's matrix (K, N) is this with its first and last two axes merged.


def view_dense(kernel):
    inputs, outputs = kernel.shape
    return kernel.reshape(1, inputs, 1, outputs)


def view_turned(kernel):
    return view_dense(kernel.T)


def view_conv(kernel, groups=1):
    *_, inputs, outputs = kernel.shape
    return kernel.reshape(-1, inputs, groups, outputs // groups)


def view_transposed(kernel):
    return view_conv(np.swapaxes(kernel, -1, -2))


def view_depthwise(kernel):
    *_, inputs, multiplier = kernel.shape
    return kernel.reshape(-1, 1, inputs, multiplier)


def view_to_heads(kernel):
    inputs, heads, size = kernel.shape
    return kernel.reshape(1, inputs, 1, heads * size)


def view_from_heads(kernel):
    heads, size, outputs = kernel.shape
    return kernel.reshape(1, heads * size, 1, outputs)


def view_one_matrix_each(kernel):
    # (groups, inputs, outputs) -> (1, inputs, groups, outputs)
    return np.swapaxes(kernel, 0, 1)[None]


def make_layers(inputs, outputs, depth, multiplier, heads):
    """Yields name, layer, shape of its input, and the view of each of its kernels."""
    line, plane, space = (4, inputs), (4, 4, inputs), (4, 4, 4, inputs)
    cube = (2, 2, 1)
    size = outputs // heads
    grouped = functools.partial(view_conv, groups=2)
    separable = (view_depthwise, view_conv)
    attention = (view_to_heads,) * 3 + (view_from_heads,)
    recurrent = (view_dense, view_dense)

    def einsum(equation, *shape):
        return layers.EinsumDense(equation, (*shape, outputs))

    yield "dense", layers.Dense(outputs), (inputs,), (view_dense,)
    yield "conv1", layers.Conv1D(outputs, 4), line, (view_conv,)
    yield "conv2", layers.Conv2D(outputs, 2), plane, (view_conv,)
    yield "conv3", layers.Conv3D(outputs, cube), space, (view_conv,)
    yield "grouped1", layers.Conv1D(outputs, 4, groups=2), line, (grouped,)
    yield "grouped2", layers.Conv2D(outputs, 2, groups=2), plane, (grouped,)
    for rank, shape, window in ((1, line, 4), (2, plane, 2), (3, space, cube)):
        layer = getattr(layers, f"Conv{rank}DTranspose")(outputs, window)
        yield f"transposed{rank}", layer, shape, (view_transposed,)
    for rank, shape, window in ((1, (4, depth), 4), (2, (4, 4, depth), 2)):
        options = {"depth_multiplier": multiplier}
        layer = getattr(layers, f"DepthwiseConv{rank}D")(window, **options)
        yield f"depthwise{rank}", layer, shape, (view_depthwise,)
        layer = getattr(layers, f"SeparableConv{rank}D")(outputs, window, **options)
        yield f"separable{rank}", layer, shape, separable
    yield "einsum", einsum("abc,cd->abd", None), line, (view_dense,)
    yield "einsum_turned", einsum("abc,dc->abd", None), line, (view_turned,)
    yield "einsum_each", einsum("abc,bcd->abd", 4), line, (view_one_matrix_each,)
    yield "mha", layers.MultiHeadAttention(heads, size), line, attention
    yield "gqa", layers.GroupQueryAttention(size, heads, heads // 2), line, attention
    yield "lstm", layers.LSTM(outputs), line, recurrent
    yield "gru", layers.GRU(outputs), line, recurrent


# The patterns, once more.


def sizes_of(pattern):
    return tuple(int(number) for number in re.findall(r"\d+", pattern))


def highest_sparsity(pattern):
    return Fraction(*sizes_of(pattern)) if ":" in pattern else Fraction(1)


def divides(pattern, view):
    window, inputs, _, outputs = view.shape
    if pattern in CHANNELS:
        return True
    first, second = sizes_of(pattern)
    if pattern in N_OF_M:
        return inputs % second == 0
    return outputs % first == 0 and (window * inputs) % second == 0


def in_groups(pattern, view):
    """The view as (groups of the pattern, members of one)."""
    window, inputs, groups, outputs = view.shape
    if pattern == "channelx1":
        return view.transpose(1, 2, 0, 3).reshape(inputs * groups, -1)
    if pattern == "1xchannel":
        return view.transpose(2, 3, 0, 1).reshape(groups * outputs, -1)
    first, second = sizes_of(pattern)
    if pattern in N_OF_M:
        split = view.reshape(window, inputs // second, second, groups, outputs)
        return np.moveaxis(split, 2, -1).reshape(-1, second)
    rows = window * inputs
    split = view.reshape(rows // second, second, groups, outputs // first, first)
    return split.transpose(0, 2, 3, 1, 4).reshape(-1, second * first)


def assert_right(pattern, weight, mask, sparsity):
    """Asserts that a view's mask prunes as many groups as it must, the lowest."""
    magnitudes = in_groups(pattern, np.abs(weight).astype("float64"))
    kept = in_groups(pattern, mask)
    size = sizes_of(pattern)[0] if pattern in N_OF_M else kept.shape[1]
    num_zeros = np.sum(~kept, axis=1)
    assert set(num_zeros) <= {0, size}
    # `round` of a fraction is exact, and half to even.
    assert np.sum(num_zeros == size) == round(sparsity * mask.size / size)
    # No group that is kept would lose less, nor in a group a weight that is kept.
    losses = np.sort(magnitudes, axis=1)[:, :size].sum(axis=1)
    pruned = num_zeros == size
    least_kept = losses[~pruned].min(initial=np.inf)
    assert losses[pruned].max(initial=0) <= least_kept * (1 + 1e-5)
    lost = np.where(kept, 0, magnitudes).max(axis=1)
    assert np.all(lost <= np.where(kept, magnitudes, np.inf).min(axis=1))


@dataclasses.dataclass
class Case:
    """A layer, and how each of its kernels is seen."""

    layer: layers.Layer
    views: tuple[Callable]

    @property
    def kernels(self):
        """Pairs of a kernel, known by its name, and its view."""
        variables = self.layer.trainable_variables
        found = [v for v in variables if v.name.endswith("kernel")]
        return list(zip(found, self.views, strict=True))


def zeros(initializer, shape, dtype=None):
    return ops.convert_to_tensor(np.zeros(shape, dtype))


@pytest.fixture(scope="module")
def model():
    """All layers side by side; its outputs have the names of the cases."""
    inputs, outputs, cases = {}, {}, {}
    with pytest.MonkeyPatch.context() as patch:
        # On JAX, drawing from a distribution compiles for each shape.
        for name in ("GlorotUniform", "Orthogonal", "Zeros"):
            patch.setattr(getattr(keras.initializers, name), "__call__", zeros)
        for size, sizes in SIZES.items():
            for name, layer, shape, views in make_layers(**sizes):
                x = inputs.setdefault(shape, layers.Input(shape))
                case = f"{name}_{size}"
                outputs[case] = layer(x, x) if name in ("mha", "gqa") else layer(x)
                cases[case] = Case(layer, views)
    model = keras.Model(list(inputs.values()), outputs)
    model.compile(run_eagerly=BACKEND != "jax")
    model.cases = cases
    return model


def draw_weights(model):
    """Draws all weights anew and returns path of variable -> value."""
    generator = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(generator.standard_normal(variable.shape, dtype="float32") / 8)
    return {variable.path: value_of(variable) for variable in model.variables}


def one_shot(pattern):
    return PruningConfig(
        pattern=pattern,
        target_sparsity=float(min(Fraction(1, 2), highest_sparsity(pattern))),
        allocation="uniform",
        begin_step=0,
        end_step=0,
        frequency=1,
    )


def affordable(pattern, cases):
    """Which cases to make masks for: all, but on JAX a cross through the grid.

    JAX compiles a third of a second for each kernel. There all layers meet a pattern
    of each family, and all patterns meet three kernels.
    """
    if BACKEND != "jax":
        return cases
    if pattern in ("3:4", "4x2", *CHANNELS):
        return {name: case for name, case in cases.items() if name.endswith("even")}
    return {name: cases[name] for name in ("dense_even", "separable1_even")}


@slow_where_compiled
@pytest.mark.parametrize("pattern", PATTERNS)
def test_pattern_makes_right_masks_in_all_layers_and_spares_the_rest(
    pattern, model, monkeypatch
):
    if BACKEND == "tensorflow":
        # XLA would compile for minutes; test_pruners.py holds both to equal masks.
        eager = functools.partial(CompiledFunction, eager=True)
        monkeypatch.setattr(mask_updater, "CompiledFunction", eager)
    before = draw_weights(model)
    cases = affordable(pattern, model.cases)
    pruner = KerasBasePruner(
        one_shot(pattern), {name: case.layer for name, case in cases.items()}
    )
    path_of = {id(kernel.variable): kernel.path for kernel in pruner.kernels}
    targets = {Fraction(pruner.target_sparsity_ratio), highest_sparsity(pattern)}
    for sparsity in sorted(targets - {1}):
        pruner.update_masks(float(sparsity))
        masks = {name: value_of(mask) for name, mask in pruner.masks.items()}
        for name, case in cases.items():
            for kernel, view in case.kernels:
                weight = before[kernel.path]
                fits = divides(pattern, view(weight))
                assert (id(kernel) in path_of) == fits, name
                if fits:
                    mask = masks[path_of[id(kernel)]]
                    assert (mask.dtype, mask.shape) == (bool, weight.shape)
                    assert_right(pattern, view(weight), view(mask), sparsity)
                    np.testing.assert_array_equal(value_of(kernel), weight * mask)
        assert pruner.num_pruned == sum(np.sum(~mask) for mask in masks.values())
    for variable in model.variables:
        if id(variable) not in path_of:
            assert np.array_equal(value_of(variable), before[variable.path])
    ones = [np.ones((2, *x.shape[1:]), "float32") for x in model.inputs]
    for name, y in model.predict_on_batch(ones).items():
        assert np.isfinite(y).all(), name


@pytest.mark.parametrize("pattern", PATTERNS)
def test_pattern_takes_the_kernels_of_one_layer_or_says_why_not(pattern, model):
    for name, case in model.cases.items():
        fits = [divides(pattern, view(value_of(k))) for k, view in case.kernels]
        if any(fits):
            pruner = KerasBasePruner(one_shot(pattern), {name: case.layer})
            taken = {id(kernel.variable) for kernel in pruner.kernels}
            assert [id(kernel) in taken for kernel, _ in case.kernels] == fits, name
            skipped = [(s.path, str(s.shape), s.reason) for s in pruner.skipped]
        else:
            with pytest.raises(ValueError) as error:
                KerasBasePruner(one_shot(pattern), {name: case.layer})
            first, *lines = str(error.value).splitlines()
            assert first == "Nothing in the model can be pruned with this config."
            parts = [re.fullmatch(r"  (\S+) (\(.+?\)): (.+)", line) for line in lines]
            skipped = [part.groups() for part in parts]
        spared = [k for (k, _), fit in zip(case.kernels, fits, strict=True) if not fit]
        shapes = [str(tuple(kernel.shape)) for kernel in spared]
        assert [shape for _, shape, _ in skipped] == shapes, name
        for path, _, reason in skipped:
            assert path.split("/")[0] == name
            assert reason.startswith(f"pattern '{pattern}' needs ")
