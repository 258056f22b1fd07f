"""Computes the inputs of kernels that torch reads within one fused function."""

from keras_pruner.pytorch.layouts import module_kind

_PACKED = "a packed sequence goes through the layer: give padded tensors"
_PROJECTION = "torch computes its inputs within the step of the LSTM"


def inner_calls(part, args, kwargs, is_watched):
    """Yields the calls that a call of a part consists of.

    Args:
        part: `torch.nn.Module`.
        args: Tuple, the positional arguments of its call.
        kwargs: Dict of the others.
        is_watched: Function that tells which parts' calls are wanted.

    Yields:
        Tuples `(part, args, kwargs)`. A recurrent part has one for each of its layers,
        with one argument: a dict from the names of the layer's kernels to their inputs.
        An attention has one more, of its `out_proj`.
    """
    kind = module_kind(part)
    if kind == "recurrent":
        for inputs in _recurrent_inputs(part, *args, **kwargs):
            yield part, (inputs,), {}
        return
    if is_watched(part):
        yield part, args, kwargs
    if kind == "attention" and is_watched(part.out_proj):
        yield part.out_proj, (_attended(part, args, kwargs),), {}


def _attended(attention, args, kwargs):
    """Returns what multiplies the kernel of an attention's `out_proj`."""
    import torch

    last = attention.out_proj
    identity = torch.eye(len(last.weight)).to(last.weight)
    weight, bias = last.weight.data, None if last.bias is None else last.bias.data
    try:
        last.weight.data = identity
        if bias is not None:
            last.bias.data = torch.zeros_like(bias)
        return attention.forward(*args, **kwargs)[0]
    finally:
        last.weight.data = weight
        if bias is not None:
            last.bias.data = bias


def _recurrent_inputs(rnn, inputs, hx=None):
    """Yields a dict from kernel names to inputs (steps, batch, K) for each layer."""
    import torch

    if not isinstance(inputs, torch.Tensor):
        yield {name: _PACKED for name, p in rnn.named_parameters() if p.ndim > 1}
        return
    if inputs.ndim == 2:
        inputs, hx = inputs[:, None], _with_batch(hx)
    elif rnn.batch_first:
        inputs = inputs.transpose(0, 1)
    suffixes = ("", "_reverse") if rnn.bidirectional else ("",)
    states = _states(rnn, inputs, hx, len(suffixes))
    for layer in range(rnn.num_layers):
        found, outputs = {}, []
        for number, suffix in enumerate(suffixes):
            name = f"l{layer}{suffix}"
            seen = inputs.flip(0) if suffix else inputs
            index = layer * len(suffixes) + number
            own = tuple(state[index : index + 1] for state in states)
            output = _run_layer(rnn, name, seen, own)
            found[f"weight_ih_{name}"] = seen
            found[f"weight_hh_{name}"] = torch.cat([own[0], output[:-1]])
            found[f"weight_hr_{name}"] = _PROJECTION
            outputs.append(output.flip(0) if suffix else output)
        yield found
        inputs = torch.cat(outputs, -1)


def _with_batch(hx):
    if hx is None:
        return None
    return tuple(h[:, None] for h in hx) if isinstance(hx, tuple) else hx[:, None]


def _states(rnn, inputs, hx, num_directions):
    """Returns the first states (layers and directions, batch, size), as a tuple."""
    if hx is not None:
        return hx if isinstance(hx, tuple) else (hx,)
    shape = rnn.num_layers * num_directions, inputs.shape[1]
    hidden = inputs.new_zeros(*shape, rnn.proj_size or rnn.hidden_size)
    if rnn.mode != "LSTM":
        return (hidden,)
    return hidden, inputs.new_zeros(*shape, rnn.hidden_size)


def _run_layer(rnn, name, inputs, states):
    """Runs one layer in one direction on (steps, batch, K)."""
    from torch import nn
    from torch.func import functional_call

    settings = {"bias": rnn.bias, "device": "meta"}
    if rnn.mode == "LSTM":
        one = nn.LSTM(
            inputs.shape[-1], rnn.hidden_size, proj_size=rnn.proj_size, **settings
        )
    elif rnn.mode == "GRU":
        one = nn.GRU(inputs.shape[-1], rnn.hidden_size, **settings)
    else:
        kind = rnn.mode.removeprefix("RNN_").lower()
        one = nn.RNN(inputs.shape[-1], rnn.hidden_size, nonlinearity=kind, **settings)
    own = dict(rnn.named_parameters(recurse=False))
    values = {n: own[n.replace("l0", name)] for n, _ in one.named_parameters()}
    state = states if rnn.mode == "LSTM" else states[0]
    return functional_call(one, values, (inputs, state))[0]
