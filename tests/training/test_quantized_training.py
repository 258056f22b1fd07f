"""Pruning beside quantization that trains, and beside distillation."""

import keras
import numpy as np
import pytest
from conftest import build_mlp, value_of
from keras import layers

from keras_pruner import (
    PrunedLayer,
    PruningCallback,
    prune_at_init,
    prune_one_shot,
    quantize,
    report,
    strip,
    wrap,
)

pytestmark = pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")


def compiled(model):
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def sparsity(model):
    return report(model).prunable_sparsity


def scales(model):
    return [value_of(v) for v in model.variables if v.name == "kernel_scale"]


# Float8: the kernel is a float variable, and trains.


@pytest.mark.parametrize("jit_compile", [False, "auto"])
def test_float8_model_is_pruned_while_it_trains(data, jit_compile):
    model = build_mlp()
    model.quantize("float8")
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=jit_compile)
    model.fit(*data, verbose=0, epochs=2, callbacks=[PruningCallback(verbose=False)])
    assert sparsity(model) == pytest.approx(0.9, abs=0.01)
    # The scales are overwritten by their gradients, as without pruning.
    assert all(scale != 1 for scale in scales(model))
    assert model.layers[-1].quantization_mode == "float8"


def test_pruned_model_keeps_its_zeros_in_float8_training(data):
    model = compiled(build_mlp())
    model.fit(*data, verbose=0, callbacks=[PruningCallback(verbose=False)])
    small, _ = quantize(model, "float8")
    before = value_of(small.layers[0].kernel)
    keep = PruningCallback(pruning_type="pattern_lock", verbose=False)
    compiled(small).fit(*data, verbose=0, callbacks=[keep])
    after = value_of(small.layers[0].kernel)
    np.testing.assert_array_equal(after == 0, before == 0)
    assert np.any(after != before)


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_callback_refuses_integers(data, mode):
    model = build_mlp()
    model.quantize(mode)
    with pytest.raises(ValueError, match=rf"quantized \({mode}\).*prune before"):
        compiled(model).fit(*data, verbose=0, callbacks=[PruningCallback()])


@pytest.mark.parametrize(
    ("name", "prune"),
    [
        ("prune_one_shot", lambda model, x, y: prune_one_shot(model, x, 0.5)),
        ("prune_at_init", lambda model, x, y: prune_at_init(model, (x, y))),
        ("PrunedLayer", lambda model, x, y: wrap(model)),
        ("PrunedLayer", lambda model, x, y: PrunedLayer(model.layers[0]).build()),
    ],
)
def test_other_ways_refuse_float8_and_say_what_works(data, name, prune):
    model = build_mlp()
    model.quantize("float8")
    with pytest.raises(ValueError) as error:
        prune(model, *data)
    assert f"`{name}` does not take layer 'hidden', which is quantized (float8)" in str(
        error.value
    )
    assert "by PruningCallback without wrapper layers" in str(error.value)


# Distillation.


def distiller_of(teacher, student):
    distillation = pytest.importorskip("keras.distillation")
    loss = distillation.LogitsDistillation(temperature=2.0)
    made = distillation.Distiller(teacher, student, loss)
    return compiled(made)


@pytest.mark.parametrize("wrapped", [False, True])
def test_student_is_pruned_and_its_teacher_is_not(data, wrapped):
    teacher = build_mlp(units=32)
    student = build_mlp()
    if wrapped:
        student = wrap(student, target_sparsity=0.8)
    before = teacher.get_weights()
    distiller = distiller_of(teacher, student)
    callback = PruningCallback(target_sparsity=0.8, verbose=False)
    distiller.fit(*data, verbose=0, epochs=2, callbacks=[callback])
    for old, new in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert sparsity(student) == pytest.approx(0.8, abs=0.01)
    plain = strip(distiller.student)
    assert sparsity(plain) == sparsity(student)
    assert all(type(layer) is not PrunedLayer for layer in plain.layers)


def test_distilled_student_is_quantized_with_its_zeros(data):
    student = build_mlp()
    distiller = distiller_of(build_mlp(units=32), student)
    callback = PruningCallback(target_sparsity=0.8, verbose=False)
    distiller.fit(*data, verbose=0, callbacks=[callback])
    small, found = quantize(student, "int8", data[0])
    assert found.zeros_before == report(student).zeros
    assert all(isinstance(layer, layers.Dense) for layer in small.layers)
    assert keras.ops.all(keras.ops.isfinite(small(data[0])))
