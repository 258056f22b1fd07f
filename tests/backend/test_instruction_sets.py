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

pytestmark = pytest.mark.skipif(
    BACKEND != "tensorflow"
    or platform.machine() != "x86_64"
    or importlib.util.find_spec(COMPILER) is None,
    reason="needs TensorFlow's ahead-of-time compiler on x86-64",
)


@pytest.mark.parametrize("part", ["masks", "rankings", "steps"])
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
