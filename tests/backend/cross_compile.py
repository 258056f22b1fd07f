"""Compiles parts of updates and steps for Sapphire Rapids; see the test beside it.

Args: which part, and a folder for the compiler's files.
"""

import pathlib
import sys

import keras
import tensorflow as tf
from keras import ops
from tensorflow.python import _pywrap_tfcompile

from keras_pruner import create_pruners
from keras_pruner.backend import call_in_trace
from keras_pruner.masks import UnitInputs, demand_of, rank_jointly

CPU = "sapphirerapids"
FEATURES = "+avx512fp16,+avx512bf16,+avx512vl,+avx512bw,+amx-bf16,+amx-tile"
STEPS = {"begin_step": 1, "end_step": 1, "low_memory_usage": True}


def compile_for_cpu(function, specs, folder):
    """Compiles a function of tensors by XLA for another CPU.

    Args:
        function: Function from tensors to a list of tensors.
        specs: List of `tf.TensorSpec`, of types that C++ has.
        folder: Where the compiler may write.
    """
    traced = tf.function(function, autograph=False).get_concrete_function(*specs)
    lines = []
    for tensor, spec in zip(traced.inputs, specs, strict=True):
        sizes = " ".join(f"dim {{ size: {size} }}" for size in spec.shape)
        name = f'id {{ node_name: "{tensor.op.name}" }}'
        lines.append(f"feed {{ {name} shape {{ {sizes} }} }}")
    for tensor in traced.outputs:
        lines.append(f'fetch {{ id {{ node_name: "{tensor.op.name}" }} }}')
    graph, config = folder / "graph.pb", folder / "config.pbtxt"
    graph.write_bytes(traced.graph.as_graph_def().SerializeToString())
    config.write_text("\n".join(lines))
    _pywrap_tfcompile.Compile(
        graph=str(graph),
        config=str(config),
        cpp_class="a::B",
        entry_point="entry",
        out_function_object=str(folder / "function.o"),
        out_header=str(folder / "function.h"),
        out_metadata_object=str(folder / "metadata.o"),
        out_constant_buffers_object=str(folder / "constants.o"),
        target_triple="x86_64-pc-linux",
        target_cpu=CPU,
        target_features=FEATURES,
    )


def pruner_of(units, dtype="float32", **settings):
    keras.config.set_dtype_policy(dtype)
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(units)])
    (pruner,) = create_pruners(STEPS | settings | {"include": ".*"}, model)
    return pruner


def masks_of_few_groups(folder):
    """Masks that one kernel ranks by itself, of groups kept in bfloat16."""
    for units, pattern in [(3, "1xchannel"), (10, "1xchannel"), (10, "channelx1")]:
        pruner = pruner_of(units, pattern=pattern, target_sparsity=0.5)
        (unit,) = pruner.units
        num_groups = pruner.plan.kernels[0].num_groups

        def masks(weight, groups, count, pruner=pruner, unit=unit):
            groups = ops.cast(groups, "bfloat16")
            shape = pruner.pattern.pool(weight, unit.kernels[0].layout).shape
            groups = [ops.reshape(groups, shape)]
            inputs = UnitInputs([weight], [], [{}], {"masks": count}, {}, groups)
            return [pruner.make_unit(unit, inputs).masks[0]]

        specs = [
            tf.TensorSpec((16, units), tf.float32),
            tf.TensorSpec((num_groups,), tf.float32),
            tf.TensorSpec((), tf.int32),
        ]
        compile_for_cpu(masks, specs, folder)


def rankings_of_two_kernels(folder):
    """A joint ranking, compiled as a whole, of scores in bfloat16."""

    def counts(first, second, target):
        scores = [ops.cast(first, "bfloat16"), ops.cast(second, "bfloat16")]
        demand = demand_of(0, [1, 1], [0, 0], [24, 10])
        demand = demand._replace(target=ops.cast(target, demand.target.dtype))
        taken, _, threshold = rank_jointly(scores, demand, call=call_in_trace)
        return [ops.cast(taken, "int32"), threshold]

    specs = [
        tf.TensorSpec((24,), tf.float32),
        tf.TensorSpec((10,), tf.float32),
        tf.TensorSpec((), tf.int32),
    ]
    compile_for_cpu(counts, specs, folder)


def steps_in_half_precision(folder):
    """Training steps of kernels, and of criterion states, in half precision."""
    for dtype in ("bfloat16", "float16"):
        for settings in (
            {"criterion": "snip_momentum"},
            {"criterion": "movement"},
            {"pruning_type": "rigl"},
            {"pruning_type": "str"},
            {"regularizer": "group_lasso", "pattern": "1xchannel"},
        ):
            pruner = pruner_of(10, dtype, target_sparsity=0.5, **settings)
            (kernel,) = pruner.kernels
            rule = pruner.rules[kernel.path]
            specs = rule.states()

            def step(weight, gradient, mask, rule=rule, specs=specs, dtype=dtype):
                weight, gradient = ops.cast(weight, dtype), ops.cast(gradient, dtype)
                mask = mask > 0
                states = {
                    name: ops.zeros(spec.shape, spec.dtype)
                    for name, spec in specs.items()
                }
                shaped = rule.shape_gradient(gradient, weight, mask, states, 1.0)
                true = ops.cast(gradient, "float32")
                changed = rule.accumulate(states, weight, true)
                weight = rule.regularize(weight - shaped, mask, states, 0.1, {})
                value, _ = rule.forward_weights(weight, mask, states)
                return [
                    ops.cast(tensor, "float32") for tensor in (value, *changed.values())
                ]

            tensors = [tf.TensorSpec((16, 10), tf.float32)] * 2
            tensors.append(tf.TensorSpec((16, 10), tf.int32))
            compile_for_cpu(step, tensors, folder)


PARTS = {
    "masks": masks_of_few_groups,
    "rankings": rankings_of_two_kernels,
    "steps": steps_in_half_precision,
}

if __name__ == "__main__":
    PARTS[sys.argv[1]](pathlib.Path(sys.argv[2]))
    print("compiled")
