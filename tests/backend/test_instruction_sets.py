"""Compiled code in half precision compiles for CPUs with AVX512-FP16 and AMX, too.

XLA ends the process on such a CPU (Intel Sapphire Rapids and later) where LLVM cannot
lower an operation of bfloat16 there. TensorFlow's ahead-of-time compiler shows it on
every CPU.
"""

import importlib.util
import os
import pathlib
import platform
import subprocess
import sys

import pytest
from conftest import BACKEND

FOLDER = pathlib.Path(__file__).parent
COMPILER = "tensorflow.python._pywrap_tfcompile"


def has_compiler():
    """Whether TensorFlow's private compiler is here, with the arguments given here."""
    if BACKEND != "tensorflow" or platform.machine() != "x86_64":
        return False
    import tensorflow as tf

    version = tuple(map(int, tf.__version__.split(".")[:2]))
    return version >= (2, 21) and importlib.util.find_spec(COMPILER) is not None


pytestmark = pytest.mark.skipif(
    not has_compiler(),
    reason="needs the ahead-of-time compiler of TensorFlow 2.21 on x86-64",
)


@pytest.mark.parametrize("part", ["masks", "rankings", "steps"])
@pytest.mark.slow
def test_half_precision_compiles_for_every_cpu(part, tmp_path):
    done = subprocess.run(
        [sys.executable, str(FOLDER / "cross_compile.py"), part, str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(FOLDER.parents[1])},
    )
    # It ends by SIGABRT where LLVM gives up.
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "compiled" in done.stdout
