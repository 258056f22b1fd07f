"""Reads the features of the machine that decide whether zeros save time."""

import functools
import pathlib
import platform
import shutil
import subprocess

from keras_pruner.checks import shown

_ARCHITECTURES = {
    "amd64": "x86_64",
    "x64": "x86_64",
    "arm64": "arm",
    "aarch64": "arm",
    "wasm32": "wasm",
    "wasm64": "wasm",
}
_CPU_INFO = pathlib.Path("/proc/cpuinfo")
# NVIDIA's GPUs multiply 2:4 kernels faster from this compute capability on.
_SPARSE_TENSOR_CORES = 8.0
# What a message calls a feature.
_TITLES = {
    "amx_int8": "AMX (amx_int8)",
    "sparse_tensor_cores": "NVIDIA GPU with sparse tensor cores",
}


@functools.cache
def hardware_here() -> frozenset[str]:
    """Returns the features of this machine, as a frozenset of names.

    It holds the architecture (`"x86_64"`, `"arm"`, `"wasm"`), the flags of the CPU as
    Linux names them (`"avx"`, `"avx512f"`, `"amx_int8"`, ...), and, if a GPU of NVIDIA
    is found, `"nvidia"`, and `"sparse_tensor_cores"` from compute capability 8.0 on.
    Other systems than Linux do not tell the flags.
    """
    machine = platform.machine().lower()
    found = {_ARCHITECTURES.get(machine, machine)}
    return frozenset(found | _cpu_flags() | _gpu_features())


def as_hardware(hardware):
    """Returns a frozenset of features; `None` stands for this machine.

    Raises:
        TypeError: If it is no collection of strings.
    """
    if hardware is None:
        return hardware_here()
    if isinstance(hardware, str):
        hardware = (hardware,)
    try:
        features = frozenset(hardware)
    except TypeError:
        features = {None}
    if not all(isinstance(feature, str) for feature in features):
        raise TypeError(
            "`hardware` is a collection of names of features, e.g. {'x86_64', "
            f"'amx_int8'}}. Received: {shown(hardware)}"
        )
    return features


def missing(needs, hardware):
    """Returns a tuple with the features that hardware lacks, in words."""
    return tuple(_TITLES.get(need, need) for need in needs if need not in hardware)


def _cpu_flags():
    """Returns the flags of the first processor that Linux lists."""
    try:
        text = _CPU_INFO.read_text()
    except OSError:
        return set()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return set(value.split())
    return set()


def _gpu_features():
    """Returns what the driver of NVIDIA says of its GPUs."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return set()
    try:
        query = [command, "--query-gpu=compute_cap", "--format=csv,noheader"]
        answer = subprocess.run(
            query, capture_output=True, text=True, timeout=20, check=True
        )
        versions = [float(line) for line in answer.stdout.split()]
    except (OSError, subprocess.SubprocessError, ValueError):
        return set()
    found = {"nvidia"} if versions else set()
    if max(versions, default=0) >= _SPARSE_TENSOR_CORES:
        found.add("sparse_tensor_cores")
    return found
