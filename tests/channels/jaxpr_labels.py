"""A second way to the classes of channels: rules for the primitives of a jaxpr."""

import jax
import numpy as np

from keras_pruner.channels.index_classes import IndexClasses
from keras_pruner.channels.labels import Labels, reshape

ELEMENTWISE = set(
    """abs acos acosh add and asin asinh atan atan2 atanh cbrt ceil clamp
    convert_element_type copy cos cosh div eq erf erf_inv erfc exp exp2 expm1 floor ge
    gt integer_pow is_finite le log log1p logistic lt max min mul ne neg nextafter not
    or pow reduce_precision rem round rsqrt select_n sign sin sinh sqrt square
    stop_gradient sub tan tanh xor""".split()
)
CALLS = {"checkpoint", "closed_call", "custom_jvp_call", "jit", "pjit", "remat"}
REDUCTIONS = set(
    """reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or argmax
    argmin""".split()
)


def classes_by_jaxpr(model, inputs):
    """Returns the classes of a Keras model on JAX: a set of sets.

    An element is the path of a variable, an axis and an index.
    """
    variables = [*model.trainable_variables, *model.non_trainable_variables]
    num_trainable = len(model.trainable_variables)

    def call(values, x):
        trainable, others = values[:num_trainable], values[num_trainable:]
        return model.stateless_call(trainable, others, x, training=False)[0]

    jaxpr = jax.make_jaxpr(call)([v.value for v in variables], inputs)
    labeller = Labeller()
    classes = labeller.classes
    given = [Labels(tuple(map(classes.fresh, v.shape))) for v in variables]
    known = [
        Labels(tuple(classes.pinned(size, "input") for size in np.shape(x)))
        for x in jax.tree.leaves(inputs)
    ]
    consts = [labeller.constant(value) for value in jaxpr.consts]
    for output in labeller.run(jaxpr.jaxpr, consts, [*given, *known]):
        labeller.pin(output.axes, "output")
    resolved = classes.resolve()
    places = [
        (v.path, axis, ids)
        for v, labels in zip(variables, given, strict=True)
        for axis, ids in enumerate(labels.axes)
    ]
    return classes_at(places, resolved)


def classes_of(graph):
    """Returns the classes of a `ChannelGraph` in the same form."""
    places = [
        (variable.path, axis, ids)
        for variable in graph.variables.values()
        for axis, ids in enumerate(graph._labels[id(variable)].axes)
    ]
    return classes_at(places, graph._resolved)


def classes_at(places, resolved):
    found = {}
    for path, axis, ids in places:
        for position, atom in zip(*resolved.atoms_of(ids), strict=True):
            found.setdefault(int(atom), set()).add((path, axis, int(position)))
    return {
        frozenset(members)
        for members in found.values()
        if len({member[:2] for member in members}) > 1
    }


class Labeller:
    """Runs a jaxpr on labels."""

    def __init__(self):
        self.classes = IndexClasses()

    def pin(self, axes, reason):
        for ids in axes:
            self.classes.pin(ids, reason)

    def pinned(self, size):
        return self.classes.pinned(size, "pinned")

    def constant(self, value):
        value = np.asarray(value)
        return Labels(
            tuple(
                self.classes.fresh(size)
                if size > 1 and (value == value.take([0], axis=axis)).all()
                else self.pinned(size)
                for axis, size in enumerate(value.shape)
            )
        )

    def unify(self, tensors):
        tensors = [x for x in tensors if x.ndim]
        axes = []
        for there in zip(*(x.axes for x in tensors), strict=True):
            longest = max(there, key=len)
            for ids in there:
                if len(ids) == len(longest):
                    self.classes.unify(longest, ids)
                else:
                    self.pin([ids], "broadcast")
            axes.append(longest)
        return Labels(tuple(axes))

    def run(self, jaxpr, consts, inputs):
        known = dict(zip(jaxpr.constvars, consts, strict=True))
        known |= dict(zip(jaxpr.invars, inputs, strict=True))

        def read(atom):
            return self.constant(atom.val) if hasattr(atom, "val") else known[atom]

        for equation in jaxpr.eqns:
            operands = [read(atom) for atom in equation.invars]
            outputs = self.apply(equation, operands)
            outputs = outputs if isinstance(outputs, list) else [outputs]
            for variable, labels in zip(equation.outvars, outputs, strict=True):
                assert labels.shape == variable.aval.shape, equation
                known[variable] = labels
        return [read(atom) for atom in jaxpr.outvars]

    def apply(self, equation, operands):
        name, params = equation.primitive.name, equation.params
        if name in ELEMENTWISE:
            return self.unify(operands)
        if name in REDUCTIONS:
            x = operands[0]
            self.pin([x.axes[axis] for axis in params["axes"]], name)
            return Labels(
                tuple(a for i, a in enumerate(x.axes) if i not in params["axes"])
            )
        inner = params.get("call_jaxpr", params.get("jaxpr"))
        if name in (
            "jit",
            "pjit",
            "custom_jvp_call",
            "closed_call",
            "remat",
            "checkpoint",
        ):
            consts = getattr(inner, "consts", [])
            inner = getattr(inner, "jaxpr", inner)
            return self.run(inner, [self.constant(c) for c in consts], operands)
        return getattr(self, f"on_{name}")(equation, params, *operands)

    def on_broadcast_in_dim(self, equation, params, x, *sizes):
        axes = [
            self.pinned(1) if size == 1 else self.classes.fresh(size)
            for size in params["shape"]
        ]
        for ids, place in zip(x.axes, params["broadcast_dimensions"], strict=True):
            if len(ids) == len(axes[place]):
                axes[place] = ids
            else:
                self.pin([ids], "broadcast")
        return Labels(tuple(axes))

    def on_reshape(self, equation, params, x, *sizes):
        return reshape(self.classes, x, params["new_sizes"])

    def on_squeeze(self, equation, params, x):
        dropped = {d % x.ndim for d in params["dimensions"]}
        self.pin([x.axes[d] for d in dropped], "dropped")
        return Labels(tuple(a for i, a in enumerate(x.axes) if i not in dropped))

    def on_transpose(self, equation, params, x):
        return Labels(tuple(x.axes[i] for i in params["permutation"]))

    def on_concatenate(self, equation, params, *xs):
        axis = params["dimension"]
        self.unify([x.without(axis) for x in xs])
        return xs[0].replace(axis, np.concatenate([x.axes[axis] for x in xs]))

    def on_dot_general(self, equation, params, x, y):
        (ours, theirs), (our_batch, their_batch) = params["dimension_numbers"]
        for i, j in zip([*ours, *our_batch], [*theirs, *their_batch], strict=True):
            self.classes.unify(x.axes[i], y.axes[j])
        return Labels(
            (
                *(x.axes[i] for i in our_batch),
                *(a for i, a in enumerate(x.axes) if i not in {*ours, *our_batch}),
                *(a for i, a in enumerate(y.axes) if i not in {*theirs, *their_batch}),
            )
        )

    def on_conv_general_dilated(self, equation, params, x, kernel):
        numbers = params["dimension_numbers"]
        batch, channels, *spatial = numbers.lhs_spec
        filters, inner, *window = numbers.rhs_spec
        assert params["batch_group_count"] == 1
        groups = params["feature_group_count"]
        self.pin([x.axes[i] for i in spatial], "window")
        self.pin([kernel.axes[i] for i in window], "window")
        columns, rows = kernel.axes[filters], kernel.axes[inner]
        if groups == 1:
            self.classes.unify(x.axes[channels], rows)
        else:
            # (groups, channels of one) and (groups, filters of one).
            number = self.classes.fresh(groups)
            within = Labels((number, rows)) if len(rows) > 1 else Labels((number,))
            if len(rows) == 1:
                self.pin([rows], "one channel a group")
            merged = reshape(self.classes, within, (groups * len(rows),))
            self.classes.unify(x.axes[channels], merged.axes[0])
            of_one = len(columns) // groups
            parts = (number, self.classes.fresh(of_one)) if of_one > 1 else (number,)
            merged = reshape(self.classes, Labels(parts), (len(columns),))
            self.classes.unify(columns, merged.axes[0])
        shape = equation.outvars[0].aval.shape
        axes = [self.pinned(size) for size in shape]
        axes[numbers.out_spec[0]] = x.axes[batch]
        axes[numbers.out_spec[1]] = columns
        return Labels(tuple(axes))

    def windows(self, equation, params, x, *rest):
        shape = equation.outvars[0].aval.shape
        axes = list(x.axes)
        for axis, size in enumerate(params["window_dimensions"]):
            if size > 1 or len(axes[axis]) != shape[axis]:
                self.pin([axes[axis]], "window")
                axes[axis] = self.pinned(shape[axis])
        return Labels(tuple(axes))

    on_reduce_window_max = on_reduce_window_min = on_reduce_window_sum = windows
    on_reduce_window = windows

    def on_slice(self, equation, params, x):
        axes = list(x.axes)
        strides = params["strides"] or [1] * x.ndim
        limits = zip(
            params["start_indices"], params["limit_indices"], strides, strict=True
        )
        for axis, (start, stop, stride) in enumerate(limits):
            whole, axes[axis] = axes[axis], axes[axis][start:stop:stride]
            if stride != 1 or (len(axes[axis]) == 1 < len(whole)):
                self.pin([whole], "strided or single")
        return Labels(tuple(axes))

    def on_split(self, equation, params, x):
        axis, sizes = params["axis"], params["sizes"]
        parts = np.split(x.axes[axis], np.cumsum(sizes)[:-1])
        return [x.replace(axis, part) for part in parts]

    def on_dynamic_slice(self, equation, params, x, *starts):
        axes = list(x.axes)
        for axis, size in enumerate(params["slice_sizes"]):
            if size != len(axes[axis]):
                self.pin([axes[axis]], "dynamic slice")
                axes[axis] = self.pinned(size)
        return Labels(tuple(axes))

    def on_gather(self, equation, params, x, indices):
        numbers = params["dimension_numbers"]
        dropped = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
        kept = []
        for axis, size in enumerate(params["slice_sizes"]):
            if axis in dropped or size != len(x.axes[axis]):
                self.pin([x.axes[axis]], "gather")
            if axis not in dropped:
                whole = size == len(x.axes[axis])
                kept.append(x.axes[axis] if whole else self.pinned(size))
        self.pin(indices.axes, "gather")
        axes = [self.pinned(size) for size in equation.outvars[0].aval.shape]
        for place, ids in zip(numbers.offset_dims, kept, strict=True):
            axes[place] = ids
        return Labels(tuple(axes))

    def on_pad(self, equation, params, x, value):
        axes = []
        for ids, (low, high, inner) in zip(
            x.axes, params["padding_config"], strict=True
        ):
            if inner or low < 0 or high < 0:
                self.pin([ids], "padding")
                ids = self.pinned(len(ids) + inner * (len(ids) - 1) + low + high)
            else:
                ids = np.concatenate([self.pinned(low), ids, self.pinned(high)])
            axes.append(ids)
        return Labels(tuple(axes))

    def on_rev(self, equation, params, x):
        for axis in params["dimensions"]:
            x = x.replace(axis, x.axes[axis][::-1])
        return x

    def on_iota(self, equation, params):
        axes = [self.classes.fresh(size) for size in params["shape"]]
        axes[params["dimension"]] = self.pinned(params["shape"][params["dimension"]])
        return Labels(tuple(axes))

    def along(self, equation, params, x, *others):
        axis = params.get("axis", params.get("dimension"))
        self.pin([x.axes[axis]], equation.primitive.name)
        return x

    on_cumsum = on_cummax = on_cumprod = along

    def on_scan(self, equation, params, *operands):
        num_consts, num_carry = params["num_consts"], params["num_carry"]
        consts, carry = operands[:num_consts], operands[num_consts:][:num_carry]
        rows = operands[num_consts + num_carry :]
        self.pin([x.axes[0] for x in rows], "steps")
        inner = params["jaxpr"]
        outputs = self.run(
            inner.jaxpr,
            [self.constant(c) for c in inner.consts],
            [*consts, *carry, *(x.without(0) for x in rows)],
        )
        for before, after in zip(carry, outputs, strict=False):
            self.unify([before, after])
        length = self.pinned(params["length"])
        return [
            *outputs[:num_carry],
            *(Labels((length, *x.axes)) for x in outputs[num_carry:]),
        ]

    def on_stack(self, equation, params, *xs):
        first, axis = self.unify(xs), params["axis"]
        return Labels((*first.axes[:axis], self.pinned(len(xs)), *first.axes[axis:]))

    def on_tile(self, equation, params, x):
        axes = []
        for ids, count in zip(x.axes, params["reps"], strict=True):
            if count > 1:
                pair = Labels((self.classes.fresh(count), ids))
                ids = reshape(self.classes, pair, (count * len(ids),)).axes[0]
            axes.append(ids)
        return Labels(tuple(axes))
