"""What zeros bring on each engine, and hardware that is read or given."""

import dataclasses
import re
import subprocess

import pytest
from keras import layers

from keras_pruner import (
    CAPABILITIES,
    Capability,
    EngineCapability,
    PruningConfig,
    capability_of,
    find_kernels,
    hardware_here,
    register_capability,
)
from keras_pruner.components.capabilities import base, hardware
from keras_pruner.reporting import ENGINES

NAMES = list(dict.fromkeys(cls.name for cls in CAPABILITIES.values()))
AMX, GPU = {"amx_int8"}, {"sparse_tensor_cores"}


def rewards(*args, **kwargs):
    return capability_of(*args, **kwargs).rewards


@pytest.mark.parametrize(
    ("engine", "pattern", "settings", "expected"),
    [
        ("litert", "1x4", {}, "size and time"),
        ("litert", "1x16", {}, "size and time"),
        ("litert", "2x8", {}, "size and time"),
        ("litert", "1x2", {}, "size"),
        ("litert", "4x1", {}, "size"),
        ("litert", "1x1", {}, "size"),
        ("litert", "2:4", {}, "size"),
        # Measured: its sparse kernel is slower with fewer zeros.
        ("litert", "1x4", {"sparsity": 0.5}, "size"),
        ("litert", "1x4", {"sparsity": 0.7999}, "size and time"),
        ("litert", "1x4", {"layer_types": "Conv2D"}, "size"),
        ("litert", "1x4", {"layer_types": ["Dense", "LSTM"]}, "size and time"),
        ("litert", "1x4", {"dtype": "int8"}, "nothing"),
        ("openvino", "1x1", {"hardware": AMX}, "nothing"),
        ("openvino", "1x1", {"hardware": AMX, "dtype": "int8"}, "time"),
        ("openvino", "1x1", {"hardware": "x86_64", "dtype": "int8"}, "nothing"),
        (
            "openvino",
            "1x1",
            {"hardware": AMX, "dtype": "int8", "sparsity": 0.5},
            "nothing",
        ),
        ("nvidia", "2:4", {"hardware": GPU}, "size and time"),
        ("nvidia", "3:4", {"hardware": GPU}, "size and time"),
        ("nvidia", "1:4", {"hardware": GPU}, "nothing"),
        ("nvidia", "2:4", {"hardware": ()}, "nothing"),
        ("nvidia", "2:4", {"hardware": GPU, "layer_types": "GRU"}, "nothing"),
        ("onnxruntime", "1x4", {}, "nothing"),
        ("tensorflow", "1x1", {}, "nothing"),
        ("jax", "2:4", {}, "nothing"),
        ("torch", "2:4", {"hardware": GPU}, "nothing"),
        ("keras", "1x1", {}, "size"),
    ],
)
def test_what_zeros_bring(engine, pattern, settings, expected):
    assert rewards(engine, pattern, **settings) == expected


@pytest.mark.parametrize("engine", NAMES)
def test_channels_that_shrink_removes_bring_both_on_every_engine(engine):
    found = capability_of(engine, "channel_groups", hardware=())
    assert found.rewards == "size and time" and "`shrink`" in found.reason


@pytest.mark.parametrize("engine", NAMES)
def test_capability_says_why_in_sentences(engine):
    found = capability_of(engine, hardware=())
    assert isinstance(found, Capability) and found.engine == engine
    assert found.rewards in base.REWARDS
    assert found.reason[0].isupper() or found.reason.startswith("torch")
    assert found.reason.endswith(".") and str(found).endswith(found.reason)
    assert isinstance(hash(found), int)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.rewards = "size"


def test_missing_hardware_is_named():
    found = capability_of("openvino", dtype="int8", hardware={"avx512f"})
    assert found.missing == ("AMX (amx_int8)",)
    assert found.reason.endswith(" The hardware has no AMX (amx_int8).")


def test_every_engine_that_measures_has_an_entry():
    assert set(ENGINES) <= set(CAPABILITIES)


def test_unknown_engine_is_an_error_that_suggests_one():
    with pytest.raises(ValueError, match=r"Unknown engine 'lite_rt'.*mean 'litert'\?"):
        capability_of("lite_rt")
    with pytest.raises(ValueError, match="`dtype` must be one of float32, int8"):
        capability_of("litert", dtype="int4")
    with pytest.raises(ValueError, match=r"`sparsity` must be in \[0, 1\]"):
        capability_of("litert", sparsity=90)
    for wrong in (3, [3]):
        with pytest.raises(TypeError, match="`hardware` is a collection of names"):
            capability_of("litert", hardware=wrong)


def test_engine_of_a_user(monkeypatch):
    monkeypatch.setattr(CAPABILITIES, "_classes", dict(CAPABILITIES._classes))

    @register_capability("own")
    class Own(EngineCapability):
        title = "My engine"
        settings = {"pattern": "2x1"}  # noqa: RUF012
        layer_types = ("Conv2D",)

        def judge(self, pattern, layer_types, dtype):
            is_good = str(pattern) == "2x1"
            return ("time" if is_good else "nothing"), "It likes pairs."

    assert str(PruningConfig(for_engine="own").pattern) == "2x1"
    assert rewards("own") == "time"
    with pytest.raises(ValueError, match=r"Pattern '4x1' brings less than '2x1'"):
        PruningConfig(for_engine="own", pattern="4x1")


# Kernels that gain.


def kernel_of(layer, *shape):
    layer.build((None, *shape))
    return find_kernels(layer).kernels[0]


@pytest.mark.parametrize(
    ("engine", "layer", "shape", "reason"),
    [
        ("litert", layers.Dense(3), (8,), None),
        ("litert", layers.LSTM(3), (2, 8), None),
        ("litert", layers.EinsumDense("ab,bc->ac", 3), (8,), None),
        ("litert", layers.Dense(3), (6,), "blocks of 4 inputs .* has 6 inputs"),
        ("litert", layers.Conv1D(4, 3), (9, 4), "gains nothing in time .* a Conv1D"),
        ("openvino", layers.Dense(64), (128,), None),
        ("openvino", layers.Dense(60), (128,), "multiples of 64.* 60 outputs"),
        ("nvidia", layers.Conv1D(16, 4), (9, 4), None),
        ("nvidia", layers.Dense(8), (16,), "multiples of 16"),
        ("keras", layers.Conv1D(1, 1), (9, 1), None),
    ],
)
def test_kernels_that_gain_less_are_refused(engine, layer, shape, reason):
    config = PruningConfig(for_engine=engine)
    found = config.for_engine.refusal(kernel_of(layer, *shape), config.pattern)
    if reason is None:
        assert found is None
    else:
        assert re.search(reason, found)


# Hardware.


def test_hardware_of_this_machine_is_a_set_of_names():
    found = hardware_here()
    assert isinstance(found, frozenset) and found
    assert all(isinstance(feature, str) for feature in found)


def test_flags_are_read_where_linux_writes_them(monkeypatch, tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text("processor : 0\nflags\t\t: fpu amx_int8 avx\n\nprocessor : 1\n")
    monkeypatch.setattr(hardware, "_CPU_INFO", path)
    assert hardware._cpu_flags() == {"fpu", "amx_int8", "avx"}
    path.unlink()
    assert hardware._cpu_flags() == set()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("9.0\n", {"nvidia", "sparse_tensor_cores"}),
        ("7.5\n8.6\n", {"nvidia", "sparse_tensor_cores"}),
        ("7.5\n", {"nvidia"}),
        ("", set()),
        ("no devices were found\n", set()),
    ],
)
def test_gpus_of_nvidia_are_asked_for(monkeypatch, answer, expected):
    monkeypatch.setattr(hardware.shutil, "which", lambda _: "nvidia-smi")
    result = subprocess.CompletedProcess([], 0, stdout=answer)
    monkeypatch.setattr(hardware.subprocess, "run", lambda *_, **__: result)
    assert hardware._gpu_features() == expected


def test_driver_that_fails_is_no_gpu(monkeypatch):
    def fail(*_, **__):
        raise subprocess.CalledProcessError(9, "nvidia-smi")

    monkeypatch.setattr(hardware.shutil, "which", lambda _: "nvidia-smi")
    monkeypatch.setattr(hardware.subprocess, "run", fail)
    assert hardware._gpu_features() == set()
