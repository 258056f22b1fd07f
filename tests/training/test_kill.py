"""A run that is killed by the system, again and again, ends as if it never was."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import BACKEND
from killed_run import BATCHES, EPOCHS

FOLDER = pathlib.Path(__file__).parent
KILLS = 2


def start(folder):
    path = os.pathsep.join([str(FOLDER.parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, str(FOLDER / "killed_run.py"), str(folder)],
        env=os.environ | {"PYTHONPATH": path, "KERAS_BACKEND": BACKEND},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_to_the_end(folder):
    process = start(folder)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    with np.load(folder / "end.npz") as file:
        return {name: file[name] for name in file}


def kill(folder, ticks, seconds):
    """Starts a run and kills it some time after so many batches."""
    path = folder / "ticks"
    path.unlink(missing_ok=True)
    process = start(folder)
    try:
        while not path.exists() or path.stat().st_size < ticks:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.001)
        time.sleep(seconds)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.long
@pytest.mark.slow
def test_killed_runs_end_bit_for_bit(tmp_path):
    expected, killed = tmp_path / "expected", tmp_path / "killed"
    expected.mkdir()
    killed.mkdir()
    wanted = run_to_the_end(expected)
    assert (expected / "ticks").stat().st_size == EPOCHS * BATCHES
    # Other moments in each test run; the message tells them.
    generator = random.Random()
    moments = [
        (generator.randint(3, 9), generator.uniform(0, 0.01)) for _ in range(KILLS)
    ]
    for moment in moments:
        kill(killed, *moment)
    # It goes on; it does not begin anew.
    assert (killed / "backup" / "run.weights.h5").exists()
    found = run_to_the_end(killed)
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value, err_msg=str(moments))
