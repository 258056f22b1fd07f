"""Runs models by OpenVINO."""

import contextlib
import functools
import pathlib
import re
from collections.abc import Callable
from typing import Any

import keras

from keras_pruner.backend import Patch
from keras_pruner.reporting.engines.base import register_engine
from keras_pruner.reporting.engines.exported import ExportedEngine, by_name


@register_engine("openvino")
class OpenVino(ExportedEngine):
    """Runs OpenVINO's intermediate representation on the CPU, in float32.

    OpenVINO would compute in bfloat16 where the processor can, and return other
    outputs. It reads nothing that Keras exports from JAX.
    """

    format = "openvino"
    suffix = ".xml"
    packages = {
        "tensorflow": {"openvino": "openvino"},
        "torch": {"openvino": "openvino"},
    }

    def write(
        self, model: keras.Model, path: pathlib.Path, signature: Any, **arguments: Any
    ) -> Any:
        is_traced = keras.backend.backend() == "torch"
        with _in_tuples(model) if is_traced else contextlib.nullcontext():
            return super().write(model, path, signature, **arguments)

    def load_file(
        self, path: pathlib.Path, inputs: Any, num_threads: int
    ) -> Callable[[], Any]:
        import openvino

        core = openvino.Core()
        # In memory, because the files are removed. The model reads the buffer until its
        # end, so `run` refers to it.
        weights = path.with_suffix(".bin").read_bytes()
        model = core.read_model(path.read_bytes(), weights)
        settings = {
            "INFERENCE_NUM_THREADS": num_threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = core.compile_model(model, "CPU", settings)
        request = compiled.create_infer_request()
        indices = _in_order(compiled.outputs)
        names = [min(port.get_names(), default="") for port in compiled.inputs]
        feeds = list(by_name(names, inputs).values())

        def run(_buffer=weights):
            request.infer(feeds)
            return [request.get_output_tensor(i).data.copy() for i in indices]

        return run


def _in_tuples(model):
    """Context in which a model returns a tuple of its outputs.

    `torch.jit.trace` refuses lists and dicts. A model around this one would not do: of
    operations in inner modules it records names that OpenVINO does not know.
    """
    call = model.call

    @functools.wraps(call)
    def call_for_tuple(*args, **kwargs):
        return tuple(keras.tree.flatten(call(*args, **kwargs)))

    return Patch(model, call=call_for_tuple)


def _in_order(outputs):
    """Returns the indices of a file's outputs in the order of the model.

    The file has them in the order of their names, in which 10 comes before 2.
    """
    numbers = []
    for output in outputs:
        found = [re.fullmatch(r"Identity(_\d+)?:0", x) for x in output.get_names()]
        numbers += [int((match[1] or "_0")[1:]) for match in found if match]
    indices = range(len(outputs))
    if len(set(numbers)) != len(outputs):
        return indices
    return sorted(indices, key=numbers.__getitem__)
