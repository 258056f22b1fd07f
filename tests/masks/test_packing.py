"""Masks of one bit a weight: equal to those of a byte, bit for bit."""

import math

import keras
import numpy as np
import pytest
from conftest import BACKEND, build_mlp, compile_mlp, slow_where_compiled, value_of
from contracts import (
    compile_cache,
    compiled,
    eager_updates,
    snapshot,
    train,
    trained_cases,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_pruner import (
    KerasBasePruner,
    PrunedLayer,
    PruningCallback,
    PruningConfig,
    PruningOptimizer,
    create_pruners,
    report,
    strip,
    wrap,
)
from keras_pruner.backend import FunctionCache
from keras_pruner.masks import pack, variable_of
from keras_pruner.masks.packed_mask import packed_size, unpack

CASES = [
    case
    for case in trained_cases()
    if case.setting in ("pruning_type", "pattern")
    or case.name in ("snip_momentum", "movement", "growing_l2")
]
STEPS = {"begin_step": 1, "end_step": 8, "frequency": 1}


@pytest.fixture(scope="module", autouse=True)
def _compile_once(tmp_path_factory):
    with compile_cache(tmp_path_factory.mktemp("cache")):
        yield


def bytes_of(masks):
    """Bytes of the variables that hold masks, counted in their values."""
    return sum(value_of(variable_of(mask)).nbytes for mask in masks)


def assert_same(values, expected):
    """Masks are equal, and other arrays but for rounding."""
    for value, other in zip(values, expected, strict=True):
        assert value.dtype == other.dtype
        if value.dtype == bool:
            np.testing.assert_array_equal(value, other)
        else:
            # Steps are compiled anew, and may round anew.
            np.testing.assert_allclose(value, other, rtol=1e-5, atol=1e-9)


def test_bits_of_a_byte_are_an_eighth_of_the_mask_apart():
    mask = np.zeros((2, 8), bool)
    # Flat entries 0, 3 and 15, of bits 0, 1 and 7 of bytes 0, 1 and 1.
    mask[0, 0] = mask[0, 3] = mask[1, 7] = True
    packed = pack(ops.convert_to_tensor(mask))
    assert value_of(packed).tolist() == [0b1, 0b10000010]
    assert value_of(packed).dtype == "uint8"


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_any_mask_survives_packing(shape, seed):
    mask = np.random.default_rng(seed).random(shape) < 0.5
    packed = pack(ops.convert_to_tensor(mask))
    assert tuple(packed.shape) == (packed_size(shape),) == (-(-mask.size // 8),)
    np.testing.assert_array_equal(value_of(unpack(packed, shape=tuple(shape))), mask)


@pytest.mark.parametrize("shape", [(3,), (16, 16), (3, 3, 5, 7)])
def test_compiled_packing_equals_eager_packing(shape):
    mask = ops.convert_to_tensor(np.random.default_rng(0).random(shape) < 0.5)
    run = FunctionCache()
    packed = run(pack, mask)
    np.testing.assert_array_equal(value_of(packed), value_of(pack(mask)))
    unpacked = run(unpack, packed, shape=shape)
    np.testing.assert_array_equal(value_of(unpacked), value_of(mask))


@slow_where_compiled
@pytest.mark.parametrize("case", CASES, ids=str)
def test_training_is_the_same_with_one_bit(case):
    generator = np.random.default_rng(0)
    data = generator.random((96, 16)).astype("float32"), generator.integers(0, 4, 96)
    found = []
    for bits in (8, 1):
        keras.utils.set_random_seed(0)
        model = compiled(case.model())
        with eager_updates():
            pruner, watch = train(model, case.config(mask_bits=bits), data)
        assert watch.broken == []
        masks = pruner.mask_variables.values()
        weights = sum(math.prod(mask.shape) for mask in masks)
        assert bytes_of(masks) == weights * bits // 8
        found.append(snapshot(model, pruner).values())
    assert_same(*found)


def fit(model, data, *callbacks, epochs=2, **settings):
    """Prunes a compiled model at steps 1 to 8 of 12, and returns its pruner."""
    settings = {"target_sparsity": 0.8, "verbose": False} | STEPS | settings
    pruning = PruningCallback(**settings)
    x, y = data
    callbacks = [pruning, *callbacks]
    model.fit(x, y, 16, epochs, verbose=0, shuffle=False, callbacks=callbacks)
    (pruner,) = pruning.pruners
    return pruner


@slow_where_compiled
@pytest.mark.parametrize("jit_compile", [BACKEND != "torch", False])
@pytest.mark.parametrize("pruning_type", ["basic", "str", "rigl"])
def test_kernels_that_are_no_multiple_of_eight(pruning_type, jit_compile, request):
    if not jit_compile:
        request.getfixturevalue("eager_masks")
    generator = np.random.default_rng(0)
    data = generator.random((96, 7)).astype("float32"), generator.integers(0, 3, 96)
    found = []
    for bits in (8, 1):
        keras.utils.set_random_seed(0)
        # 7 x 5 and 5 x 3 weights: bytes that are not filled.
        model = compile_mlp(build_mlp(7, 5), jit_compile=jit_compile)
        pruner = fit(model, data, pruning_type=pruning_type, mask_bits=bits)
        assert pruner.num_pruned == 40
        assert bytes_of(pruner.mask_variables.values()) == (50 if bits == 8 else 7)
        found.append(snapshot(model, pruner).values())
    assert_same(*found)


@pytest.mark.usefixtures("eager_masks")
def test_optimizer_of_fit_holds_the_bits_alone(data):
    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            variables = self.model.optimizer.all_variables
            sizes.append(sum(value_of(variable).nbytes for variable in variables))

    sizes = []
    for bits in (8, 1):
        fit(compile_mlp(), data, Look(), epochs=1, mask_bits=bits)
    assert sizes[0] - sizes[1] == 152 - 19


def save_at_first_epoch(path):
    def save(epoch, logs):
        whole = str(path).endswith(".keras")
        model = saver.model
        if epoch == 0:
            (model.save if whole else model.save_weights)(path)

    saver = keras.callbacks.LambdaCallback(on_epoch_end=save)
    return saver


@slow_where_compiled
@pytest.mark.usefixtures("eager_masks")
@pytest.mark.parametrize("first, second", [(1, 8), (8, 1), (1, 1)])
@pytest.mark.parametrize("suffix", ["keras", "weights.h5"])
def test_run_goes_on_with_other_bits(data, tmp_path, suffix, first, second):
    path = tmp_path / f"half.{suffix}"
    settings = {"pruning_type": "rigl"}
    model = compile_mlp()
    pruner = fit(model, data, save_at_first_epoch(path), mask_bits=first, **settings)
    expected = snapshot(model, pruner)
    if suffix == "keras":
        model, restore = keras.models.load_model(path), ()
        assert isinstance(model.optimizer, PruningOptimizer)
        masks = model.optimizer.masks.values()
        assert bytes_of(masks) == 152 * first // 8
        assert 0 < sum(int(value_of(mask).sum()) for mask in masks) < 152
    else:
        model = compile_mlp()
        restore = (
            keras.callbacks.LambdaCallback(
                on_train_begin=lambda logs: model.load_weights(path)
            ),
        )
    x, y = data
    pruning = PruningCallback(
        {"target_sparsity": 0.8, "mask_bits": second} | STEPS | settings, verbose=False
    )
    callbacks = [pruning, *restore]
    model.fit(
        x, y, 16, 2, verbose=0, shuffle=False, initial_epoch=1, callbacks=callbacks
    )
    (pruner,) = pruning.pruners
    assert bytes_of(pruner.mask_variables.values()) == 152 * second // 8
    assert_same(snapshot(model, pruner).values(), expected.values())


@pytest.mark.usefixtures("eager_masks")
def test_files_are_of_one_size_whatever_the_bits(data, tmp_path):
    sizes = set()
    for bits in (8, 1):
        path = tmp_path / f"{bits}.weights.h5"
        fit(compile_mlp(), data, save_at_first_epoch(path), mask_bits=bits)
        sizes.add(path.stat().st_size)
    assert len(sizes) == 1


@pytest.mark.usefixtures("eager_masks")
def test_loaded_model_that_nobody_prunes_keeps_its_zeros(data, tmp_path):
    path, model = tmp_path / "half.keras", compile_mlp()
    fit(model, data, save_at_first_epoch(path), mask_bits=1)
    loaded = keras.models.load_model(path)
    zeros = [value_of(layer.kernel) == 0 for layer in loaded.layers]
    x, y = data
    loaded.fit(x, y, 16, verbose=0)
    assert 0 < sum(zero.sum() for zero in zeros) < 152
    for layer, zero in zip(loaded.layers, zeros, strict=True):
        np.testing.assert_array_equal(value_of(layer.kernel) == 0, zero)


@slow_where_compiled
@pytest.mark.usefixtures("eager_masks")
def test_wrapped_layers_hold_bits(data, tmp_path):
    found = []
    for bits in (8, 1):
        keras.utils.set_random_seed(0)
        config = PruningConfig(target_sparsity=0.5, mask_bits=bits, **STEPS)
        model = compile_mlp(wrap(build_mlp(), config))
        pruning = PruningCallback(verbose=False)
        x, y = data
        model.fit(x, y, 16, 2, verbose=0, shuffle=False, callbacks=[pruning])
        layers = [layer for layer in model.layers if isinstance(layer, PrunedLayer)]
        masks = [mask for layer in layers for mask in layer.masks.values()]
        assert bytes_of(masks) == 152 * bits // 8
        (pruner,) = pruning.pruners
        assert bytes_of(pruner.mask_variables.values()) == 152 * bits // 8
        model.save(tmp_path / f"{bits}.keras")
        loaded = keras.models.load_model(tmp_path / f"{bits}.keras")
        outputs = model.predict(x, verbose=0)
        np.testing.assert_array_equal(loaded.predict(x, verbose=0), outputs)
        plain = strip(loaded)
        np.testing.assert_array_equal(plain.predict(x, verbose=0), outputs)
        assert report(plain).zeros == report(model).zeros == 76
        assert report(model).parameters == report(plain).parameters == 163
        found.append([value_of(mask) for mask in masks] + plain.get_weights())
    assert_same(*found)
    # The weights of one fit the other.
    model.load_weights(tmp_path / "8.keras")


def test_mask_of_another_shape_is_refused():
    pruner = KerasBasePruner({"mask_bits": 1}, build_mlp())
    mask = pruner.mask_variables["hidden/kernel"]
    with pytest.raises(ValueError, match=r"shape \(16, 8\).*Received: \(8, 16\)"):
        mask.assign(np.ones((8, 16), bool))
    assert repr(mask).startswith("<PackedMask of (16, 8) in ")
    # As where a bool variable stands.
    assert ops.convert_to_tensor(mask).shape == (16, 8)


@pytest.mark.usefixtures("eager_masks")
def test_loop_of_ones_own_in_one_bit():
    found = []
    for bits in (8, 1):
        keras.utils.set_random_seed(0)
        generator = np.random.default_rng(0)
        settings = {"mask_bits": bits, "pruning_type": "rigl", "target_sparsity": 0.5}
        (pruner,) = create_pruners(settings | STEPS, build_mlp())
        pruner.on_train_begin()
        for step in range(4):
            pruner.on_step_begin(step)
            gradients = {
                kernel.path: generator.normal(size=kernel.variable.shape)
                for kernel in pruner.kernels
            }
            gradients = {k: ops.cast(g, "float32") for k, g in gradients.items()}
            for kernel, gradient in zip(
                pruner.kernels,
                pruner.on_before_optimizer_step(gradients).values(),
                strict=True,
            ):
                kernel.variable.assign(kernel.variable - 0.1 * gradient)
            pruner.on_after_optimizer_step()
        found.append(
            [value_of(mask) for mask in pruner.masks.values()]
            + [value_of(kernel.variable) for kernel in pruner.kernels]
        )
    assert_same(*found)


@pytest.mark.skipif(BACKEND != "torch", reason="torch modules")
def test_torch_module_in_one_bit():
    import torch

    from keras_pruner import PytorchBasePruner

    found, states = [], []
    for bits in (8, 1):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Linear(5, 3))
        optimizer = torch.optim.Adam(net.parameters())
        settings = {"mask_bits": bits, "criterion": "snip", "target_sparsity": 0.5}
        pruner = PytorchBasePruner(settings | STEPS, net).attach(net, optimizer)
        for _ in range(9):
            optimizer.zero_grad()
            net(torch.randn(4, 7)).square().sum().backward()
            optimizer.step()
        assert pruner.num_pruned == 25
        (inner,) = pruner.pruners
        assert bytes_of(inner.mask_variables.values()) == (50 if bits == 8 else 7)
        states.append(pruner.state_dict())
        tensors = *pruner.masks.values(), *net.parameters()
        found.append([value_of(tensor) for tensor in tensors])
        # The state of the other fits.
        pruner.load_state_dict(states[0])
        assert pruner.num_pruned == 25
    assert_same(*found)
    assert_same(*([value_of(v) for v in state.values()] for state in states))
