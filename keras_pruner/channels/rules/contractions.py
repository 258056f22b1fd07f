"""Rules for sums of products: matrix products, `einsum`, attention."""

import string

import keras
from keras import layers

from keras_pruner.backend import sublayers_of
from keras_pruner.channels.labels import Labels
from keras_pruner.channels.rules.registry import operation_rule, register_channel_rule


def einsum(trace, operands, inputs, output):
    """Returns the labels of an `einsum` without ellipsis.

    Args:
        trace: `Trace`.
        operands: List of `Labels`.
        inputs: List of strings: the letters of the axes of each operand.
        output: Letters of the axes of the result.
    """
    ids, counts = {}, {}
    for letters, labels in zip(inputs, operands, strict=True):
        if len(letters) != labels.ndim:
            raise ValueError(f"'{letters}' names the axes of {labels}")
        for letter, axis in zip(letters, labels.axes, strict=True):
            counts[letter] = counts.get(letter, 0) + 1
            if letters.count(letter) > 1:
                trace.pin(axis, "a diagonal is taken")
            known = ids.setdefault(letter, axis)
            if len(known) == len(axis):
                trace.unify(known, axis)
                continue
            if min(len(known), len(axis)) != 1:
                raise ValueError(f"axes '{letter}' have different sizes")
            for part in (known, axis):
                trace.pin(part, "an axis of size 1 is broadcast")
            ids[letter] = max(known, axis, key=len)
    for letter, count in counts.items():
        if count == 1 and letter not in output:
            trace.pin(ids[letter], "sum over the axis")
    if len(operands) > 1:
        trace.contract(*ids.values())
    activations = [
        letters
        for letters, labels in zip(inputs, operands, strict=True)
        if not trace.is_of_weights(labels)
    ]
    if len(activations) == len(operands) == 2:
        shared = set(activations[0]) & set(activations[1])
        summed = sorted(shared - set(output))
        if summed:
            trace.heads += [ids[letter] for letter in sorted(shared & set(output))]
        for letter in summed:
            # No rows of a kernel are zero there.
            trace.need_zeros(
                ids[letter],
                "sum of products over the axis, and its channels may not be zero",
            )
    return Labels(tuple(ids[letter] for letter in output))


def parse_subscripts(subscripts, operands):
    """Returns the letters of the operands and of the result, without ellipsis."""
    subscripts = subscripts.replace(" ", "")
    left, arrow, output = subscripts.partition("->")
    inputs = left.split(",")
    if len(inputs) != len(operands):
        raise ValueError(f"'{subscripts}' is for {len(inputs)} tensors")
    unused = [x for x in string.ascii_letters if x not in subscripts]
    num_hidden = [
        x.ndim - len(letters.replace("...", "")) if "..." in letters else 0
        for x, letters in zip(operands, inputs, strict=True)
    ]
    hidden = "".join(unused[: max(num_hidden)])
    if not arrow:
        letters = "".join(inputs).replace(".", "")
        output = "..." if "..." in left else ""
        output += "".join(sorted(x for x in set(letters) if letters.count(x) == 1))
    inputs = [
        letters.replace("...", hidden[len(hidden) - number :])
        for letters, number in zip(inputs, num_hidden, strict=True)
    ]
    return inputs, output.replace("...", hidden)


@operation_rule("Einsum")
def _einsum(trace, operation, *operands):
    inputs, output = parse_subscripts(operation.subscripts, operands)
    return einsum(trace, operands, inputs, output)


@operation_rule("Matmul")
def _matmul(trace, operation, x1, x2):
    batch = string.ascii_lowercase[3 : 3 + max(x1.ndim, x2.ndim) - 2]
    left = ("a" if x1.ndim > 1 else "") + "b"
    right = "b" + ("c" if x2.ndim > 1 else "")
    ours = batch[len(batch) - max(x1.ndim - 2, 0) :] if x1.ndim > 2 else ""
    theirs = batch[len(batch) - max(x2.ndim - 2, 0) :] if x2.ndim > 2 else ""
    output = batch + left.replace("b", "") + right.replace("b", "")
    return einsum(trace, [x1, x2], [ours + left, theirs + right], output)


@operation_rule("Dot", "Tensordot", "Inner", "Outer")
def _products(trace, operation, x1, x2):
    if not (isinstance(x1, Labels) and isinstance(x2, Labels)):
        return trace.broadcast(x1, x2)
    ours, theirs = string.ascii_lowercase[: x1.ndim], string.ascii_uppercase[: x2.ndim]
    pairs = _pairs(operation, x1, x2)
    for one, other in pairs:
        theirs = theirs.replace(theirs[other], ours[one])
    summed = {ours[one] for one, _ in pairs}
    output = "".join(x for x in ours + theirs if x not in summed)
    if type(operation).__name__ == "Outer" and max(x1.ndim, x2.ndim) > 1:
        raise ValueError("it flattens the tensors")
    return einsum(trace, [x1, x2], [ours, theirs], output)


def _pairs(operation, x1, x2):
    """Returns pairs of axes over which a product is summed."""
    name = type(operation).__name__
    if name == "Outer" or 0 in (x1.ndim, x2.ndim):
        return []
    if name == "Dot":
        return [(x1.ndim - 1, max(x2.ndim - 2, 0))]
    if name == "Inner":
        return [(x1.ndim - 1, x2.ndim - 1)]
    axes = operation.axes
    if isinstance(axes, int):
        return [(x1.ndim - axes + i, i) for i in range(axes)]
    one, other = ([a] if isinstance(a, int) else list(a) for a in axes)
    return [(a % x1.ndim, b % x2.ndim) for a, b in zip(one, other, strict=True)]


@operation_rule("DotProductAttention")
def _attention(trace, operation, query, key, value, bias=None, mask=None, scale=None):
    query = _with_repeated_heads(trace, query, key)
    scores = einsum(trace, [query, key], ["btnh", "bsnh"], "bnts")
    if scale is None:
        trace.pin(query.axes[3], "attention is scaled by the size of the axis")
    if keras.backend.backend() == "jax" and query.shape[3] == value.shape[3]:
        # There Keras computes no attention whose values have other sizes than keys.
        trace.unify(query.axes[3], value.axes[3])
    scores = trace.broadcast(scores, bias, mask)
    trace.pin(scores.axes[3], "softmax along the axis")
    return einsum(trace, [scores, value], ["bnts", "bsnv"], "btnv")


def _with_repeated_heads(trace, query, key):
    if query.shape[2] == key.shape[2]:
        return query
    raise ValueError("its keys have fewer heads than its queries")


@register_channel_rule(layers.GroupQueryAttention)
def _group_query_attention(trace, layer, *args, **kwargs):
    kernels = {x.name: getattr(x, "kernel", None) for x in sublayers_of(layer)}
    query, key, value, output = (
        trace.labels_of(kernels[name])
        for name in ("query", "key", "value", "attention_output")
    )
    # Its config has one size for keys and values, and none for its outputs.
    pairs = (key.axes[-1], value.axes[-1]), (query.axes[0], output.axes[-1])
    for one, other in pairs:
        # Packed integers have other shapes.
        if len(one) == len(other):
            trace.unify(one, other)
    return trace.open(layer, *args, **kwargs)


@register_channel_rule(layers.Dense)
def _dense(trace, layer, inputs, training=None):
    rows, columns = trace.labels_of(layer.kernel).axes
    trace.unify(inputs.axes[-1], rows)
    trace.contract(*inputs.axes[:-1], rows, columns)
    if layer.use_bias:
        trace.unify(trace.labels_of(layer.bias).axes[0], columns)
    return trace.activate(layer.activation, inputs.replace(-1, columns))


def contract_quantized(trace, layer, inputs, reverse=False, **kwargs):
    """Records the products of a quantized layer.

    Its packed kernel has no axes that could be followed, so the loop has new ids.

    Args:
        trace: `Trace`.
        layer: Quantized Keras layer.
        inputs: `Labels` of its input.
        reverse: Whether an embedding maps back to its tokens.
        **kwargs: Other arguments of its call.
    """
    if isinstance(layer, layers.Dense):
        sizes = [*inputs.shape, layer.units]
    elif isinstance(layer, layers.EinsumDense):
        (ours, _), output = parse_subscripts(layer.equation, (inputs, inputs))
        made = layer.compute_output_shape(inputs.shape)
        ends = dict(zip(output, made, strict=True))
        sizes = (ends | dict(zip(ours, inputs.shape, strict=True))).values()
    elif reverse:
        sizes = [*inputs.shape, layer.input_dim]
    else:
        return
    trace.contract(*map(trace.fresh, sizes))
