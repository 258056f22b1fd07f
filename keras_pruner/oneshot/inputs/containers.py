"""Follows a pass through layers that call other layers in a way of their own."""

import inspect

import keras
import numpy as np
from keras import layers, ops

from keras_pruner.backend import Patch, all_layers, sublayers_of


def patches_for(layer, watch):
    """Returns the patches that let a `Watch` see into a layer."""
    if isinstance(layer, layers.RNN):
        return [_follow_loop(layer, watch)]
    if isinstance(layer, layers.TimeDistributed):
        return _follow_time_steps(layer, watch)
    if isinstance(layer, layers.MultiHeadAttention | layers.GroupQueryAttention):
        return [_follow_attention(layer, watch)]
    return []


def _follow_loop(rnn, watch):
    """Runs the cell step by step before the layer's own loop, which is compiled."""
    outer, loop = rnn.call, rnn.inner_loop
    first = getattr(rnn.cell, "cells", [rnn.cell])[0]
    cells = all_layers(rnn.cell) if isinstance(rnn.cell, layers.Layer) else []
    # Stacked cells are also called outside of the loop, to prepare dropout.
    watch.close(cells)

    def call(*args, **kwargs):
        # Both directions of a bidirectional layer see the same sequence.
        with watch.origin_of_part(first, (args, kwargs)):
            return outer(*args, **kwargs)

    def inner_loop(sequences, initial_state, mask, training=False):
        try:
            with watch.opened(cells):
                _run_steps(rnn, sequences, initial_state, mask, watch)
            return loop(sequences, initial_state, mask, training=training)
        except BaseException:
            # The layer keeps masks of this batch size until its loop has ended.
            for part in cells:
                if hasattr(part, "reset_dropout_mask"):
                    part.reset_dropout_mask()
                    part.reset_recurrent_dropout_mask()
            raise

    attributes = {"call": call, "inner_loop": inner_loop}
    if hasattr(rnn, "use_cudnn"):
        # A bidirectional layer would run both directions at once, past their loops.
        attributes["use_cudnn"] = False
    return Patch(rnn, **attributes)


def _run_steps(rnn, sequences, initial_state, mask, watch):
    states = initial_state
    if not keras.tree.is_nested(states):
        states = [states]
    if mask is not None:
        mask = ops.cast(keras.tree.flatten(mask)[0], "bool")
        mask = ops.reshape(mask, (*mask.shape[:2], -1))[:, :, 0]
        samples = ops.convert_to_numpy(mask)
    steps = range(sequences.shape[1])
    for t in reversed(steps) if rnn.go_backwards else steps:
        with watch.step(None if mask is None else samples[:, t]):
            _, new = rnn.cell(sequences[:, t], states)
        new = new if keras.tree.is_nested(new) else [new]
        states = new if mask is None else _kept_if_masked(mask[:, t], new, states)


def _kept_if_masked(mask, new, old):
    """Keeps the old states of masked samples."""
    chosen = [
        ops.where(ops.reshape(mask, (-1, *[1] * (len(b.shape) - 1))), b, a)
        for a, b in zip(keras.tree.flatten(old), keras.tree.flatten(new), strict=True)
    ]
    return keras.tree.pack_sequence_as(new, chosen)


def _follow_time_steps(layer, watch):
    """Drops the samples that are masked in a step of `TimeDistributed`."""
    outer, inner = layer.call, layer.layer.call
    running = []

    def call(inputs, training=None, mask=None):
        steps = [None] * inputs.shape[1]
        if mask is not None:
            steps = np.moveaxis(ops.convert_to_numpy(mask).astype(bool), 1, 0)
        running.append(iter(steps))
        try:
            return outer(inputs, training=training, mask=mask)
        finally:
            running.pop()

    def step(*args, **kwargs):
        with watch.step(next(running[-1], None) if running else None):
            return inner(*args, **kwargs)

    return [Patch(layer, call=call), Patch(layer.layer, call=step)]


def _follow_attention(layer, watch):
    """Tells the parts of an attention layer which steps of their inputs are masked.

    The layer removes the masks from its inputs before it calls them.
    """
    call, signature = layer.call, inspect.signature(layer.call)

    def follow(*args, **kwargs):
        given = signature.bind(*args, **kwargs).arguments
        query, value = given.get("query_mask"), given.get("value_mask")
        key = given.get("key_mask")
        if given.get("key") is None or given["key"] is given["value"]:
            key = value
        masks = {"key": key, "value": value}
        masks |= dict.fromkeys(("query", "gate", "attention_output"), query)
        parts = {id(p): masks.get(p.name) for p in sublayers_of(layer)}
        with watch.part_masks({p: m for p, m in parts.items() if m is not None}):
            return call(*args, **kwargs)

    return Patch(layer, call=follow)
