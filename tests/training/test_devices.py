"""Training on several devices. Backends take their number at the start of a process."""

import json
import math
import os
import pathlib
import re
import socket
import subprocess
import sys

import numpy as np
import pytest
from conftest import BACKEND

pytestmark = pytest.mark.long

FOLDER = pathlib.Path(__file__).parent
# Long enough for any machine: it only keeps a broken run from waiting for ever.
SECONDS = 600


def start(script, *arguments, **environment):
    """Starts a script of this folder, on the package that is tested here."""
    path = os.pathsep.join([str(FOLDER.parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, str(FOLDER / script), *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": path, "KERAS_BACKEND": BACKEND} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def results(*processes):
    """Waits for processes and returns what they printed; none is left behind."""
    try:
        printed = [process.communicate(timeout=SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, printed, strict=True):
        assert process.returncode == 0, errors
    return [json.loads(output) for output, _ in printed]


def free_ports(number):
    """Ports of this machine that nobody listens at."""
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def assert_same(result, expected):
    assert result["pruned"] == expected["pruned"]
    for mask, other in zip(result["masks"], expected["masks"], strict=True):
        np.testing.assert_array_equal(mask, other)
    for key in ("states", "weights"):
        for value, other in zip(result[key], expected[key], strict=True):
            np.testing.assert_allclose(value, other, rtol=1e-4, atol=1e-6)


only_tensorflow = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="tf.distribute is TensorFlow's"
)


@only_tensorflow
@pytest.mark.slow
def test_mirrored_strategy_prunes_as_one_device():
    [found] = results(start("devices_tensorflow.py", "mirrored", 2))
    for name in ("wrapped", "sr_ste", "rigl", "packed"):
        result, expected = found[f"{name}/all"], found[f"{name}/one"]
        assert result["num_copies"] == 2
        assert result["copies_equal"]
        assert result["pruned"] == 76  # half of 152
        assert_same(result, expected)
    for setting, message in found["refused"].items():
        assert "Keras cannot train a model under MirroredStrategy" in message
        assert f"{setting}=" in message


@only_tensorflow
@pytest.mark.slow
def test_runs_on_mirrored_devices_go_on_where_they_were_cut(tmp_path):
    [found] = results(start("devices_tensorflow.py", "resume", 2, tmp_path))
    expected = found.pop("whole")
    assert expected["num_copies"] == 2 and expected["step"] == 24
    refused = found.pop("refused")
    assert "was pruned with criterion=" in refused and "fisher" in refused
    assert set(found) == {"BackupAndRestore", "BackupAndResume", "load_model"}
    for name, result in found.items():
        assert result == expected, name


@only_tensorflow
@pytest.mark.slow
def test_workers_that_share_a_loop_hold_the_masks_of_one():
    from devices_tensorflow import work

    ports = free_ports(2)
    workers = results(
        *(start("devices_tensorflow.py", "worker", n, *ports) for n in range(2))
    )
    alone = work(0, [])
    for loop in ("hooks", "inside", "callbacks"):
        assert workers[0][loop] == workers[1][loop]
        assert workers[0][loop]["pruned"] == 76
        assert_same(workers[0][loop], alone[loop])
    assert "keras.callbacks.CallbackList" in workers[0]["refused"]


def largest_exchange(folder):
    """Elements of the largest tensor that compiled programs gather or move."""
    moves = r"(?:all-gather|all-to-all|collective-permute)(?:-start)?"
    pattern = rf"\[([\d,]*)\]\S* {moves}\("
    sizes = [
        math.prod(int(size) for size in shape.split(",") if size)
        for path in folder.glob("*after_optimizations.txt")
        for shape in re.findall(pattern, path.read_text())
    ]
    return max(sizes)


@pytest.mark.skipif(BACKEND != "jax", reason="keras.distribution is JAX's")
def test_sharded_kernels_get_sharded_masks_and_are_never_gathered(tmp_path):
    flags = (
        "--xla_force_host_platform_device_count=4 "
        f"--xla_dump_to={tmp_path} --xla_dump_hlo_as_text"
    )
    [found] = results(start("devices_jax.py", XLA_FLAGS=flags))
    assert found.pop("devices") == 4
    assert "by_columns/kernel' is divided over devices" in found.pop("refused")
    for case, result in found.items():
        assert result["masks"] == found[case.split("/")[0] + "/none"]["masks"]
        assert result["zeros"] == result["pruned"] > 0
        for name, axes in result["layouts"].items():
            layer, _, part = name.split("/")
            if case.endswith("/model") and layer != "head" and part != "memory":
                by_columns = layer == "by_columns"
                assert axes == ([None, "model"] if by_columns else ["model", None])
            else:
                assert set(axes) <= {None}
    # A sample of the scores is gathered; the smaller sharded kernel has 131,072.
    assert 0 < largest_exchange(tmp_path) < 131_072 / 4
