"""Which kernels of what a user gave are to be pruned by a config, and which are not."""

import dataclasses

import keras

from keras_pruner.kernels.filters import select
from keras_pruner.kernels.find import find_kernels
from keras_pruner.kernels.kernel import Kernel, KernelSearch, Skipped
from keras_pruner.kernels.layouts import conv_layout, dense_layout


def collect_kernels(modules, config):
    """Finds and selects the kernels of what a user gave as `modules`.

    Args:
        modules: Model, layer, or dict; see `KerasBasePruner`. Or an object with a
            method `find_kernels(embeddings)` that returns a `KernelSearch`.
        config: `PruningConfig`.

    Returns:
        Tuple of the list of selected `Kernel`s and the list of `Skipped`.
    """
    embeddings = "Embedding" in (config.layer_types or ())
    if isinstance(modules, keras.layers.Layer) or hasattr(modules, "find_kernels"):
        modules = {None: modules}
    if not isinstance(modules, dict):
        raise TypeError(
            "`modules` must be a dict from a name to a Keras layer, a keras.Variable "
            f"or a Kernel, or a model. Received: {type(modules).__name__}"
        )
    kernels, skipped, seen = [], [], set()
    for name, module in modules.items():
        found = _kernels_of(name, module, embeddings)
        skipped += found.skipped
        for kernel in found.kernels:
            # A shared layer is one layer, whatever names it goes by.
            if id(kernel.variable) in seen:
                continue
            seen.add(id(kernel.variable))
            if kernel.variable.trainable:
                kernels.append(kernel)
            else:
                shape = tuple(kernel.variable.shape)
                reason = "frozen: the layer has trainable=False"
                skipped.append(Skipped(kernel.path, shape, reason))
    chosen = kernels
    if config.layer_types is not None:
        chosen = _of_types(kernels, config.layer_types)
    if config.include is not None:
        included = {id(k) for k in select(kernels, config.include, "include")}
        chosen = [kernel for kernel in chosen if id(kernel) in included]
    excluded = {id(k) for k in select(kernels, config.exclude, "exclude")}
    picked = {id(kernel) for kernel in chosen}
    for kernel in kernels:
        shape = tuple(kernel.variable.shape)
        if id(kernel) in excluded:
            skipped.append(Skipped(kernel.path, shape, "excluded by `exclude`"))
        elif id(kernel) not in picked:
            reason = "not selected by `include` or `layer_types`"
            skipped.append(Skipped(kernel.path, shape, reason))
    return [k for k in chosen if id(k) not in excluded], skipped


def _kernels_of(name, module, embeddings):
    if isinstance(module, Kernel):
        module = dataclasses.replace(module, path=name or module.path)
        return KernelSearch((module,), ())
    if isinstance(module, keras.Variable):
        shape = tuple(module.shape)
        if len(shape) < 2:
            raise ValueError(
                f"Module '{name}' is a variable of shape {shape}; a prunable kernel "
                "has two or more axes."
            )
        layout = dense_layout(shape) if len(shape) == 2 else conv_layout(shape)
        return KernelSearch((Kernel(name, module, layout),), ())
    if not isinstance(module, keras.layers.Layer):
        if hasattr(module, "find_kernels"):
            return module.find_kernels(embeddings)
        raise TypeError(
            f"Module '{name}' must be a Keras layer, a keras.Variable or a Kernel. "
            f"Received: {module!r} of type {type(module).__name__}"
        )
    if not module.built:
        raise ValueError(
            f"'{module.name}' is not built, so its weights do not exist yet. Call it "
            "on data once, or `build(input_shape)`, before pruning."
        )
    if getattr(module, "quantization_mode", None) is not None and name is not None:
        raise ValueError(
            f"Layer '{module.name}' is quantized ({module.quantization_mode}), so its "
            "kernel is computed. Prune before `quantize`."
        )
    found = find_kernels(module, embeddings=embeddings, name=name)
    if name is not None and len(found.kernels) == 1:
        kernel = dataclasses.replace(found.kernels[0], path=name)
        return KernelSearch((kernel,), found.skipped)
    return found


def _of_types(kernels, names):
    chosen, matched = [], set()
    for kernel in kernels:
        classes = {cls.__name__ for cls in type(kernel.layer).__mro__}
        if classes & set(names):
            matched |= classes & set(names)
            chosen.append(kernel)
    if not matched:
        present = sorted({type(kernel.layer).__name__ for kernel in kernels})
        raise ValueError(
            f"`layer_types` has {', '.join(names)}, but the prunable layers are of the "
            f"classes: {', '.join(present) or 'none'}."
        )
    return chosen


def fit_pattern(search, config):
    """Splits kernels into those that take the pattern and those that cannot."""
    kernels, skipped = search
    fitting = []
    for kernel in kernels:
        reason = config.pattern.reason_to_skip(kernel.layout)
        if reason is None:
            fitting.append(kernel)
        else:
            shape = tuple(kernel.variable.shape)
            skipped.append(Skipped(kernel.path, shape, reason))
    if not fitting:
        reasons = "\n".join(f"  {s.path} {s.shape}: {s.reason}" for s in skipped)
        raise ValueError(
            "Nothing in the model can be pruned with this config.\n"
            + (reasons or "  It has no weights of two or more axes.")
        )
    return tuple(fitting), tuple(skipped)


def partition_kernels(config, modules):
    """Divides the kernels between a config and its local configs.

    A local config takes the kernels that it selects; the rest stay with the main one.

    Args:
        config: `PruningConfig`.
        modules: As for `KerasBasePruner`.

    Returns:
        List of pairs of a config without local configs and the kernels it selects,
        the main one first. The main one is left out if the local ones take all.

    Raises:
        ValueError: If two local configs select the same kernel, or a selector selects
            nothing.
    """
    claimed, parts = {}, []
    for number, local in enumerate(config.local_configs):
        kernels, _ = collect_kernels(modules, local)
        for kernel in kernels:
            other = claimed.setdefault(id(kernel.variable), number)
            if other != number:
                raise ValueError(
                    f"Local configs {other} and {number} both select '{kernel.path}'. "
                    "Each kernel belongs to one config: exclude it from one of them."
                )
        parts.append((local, kernels))
    main = dataclasses.replace(config, local_configs=())
    kernels, _ = collect_kernels(modules, main)
    rest = [kernel for kernel in kernels if id(kernel.variable) not in claimed]
    if claimed and not rest:
        return parts
    if claimed:
        main = dataclasses.replace(
            main, exclude=(*main.exclude, lambda k: id(k.variable) in claimed)
        )
    return [(main, rest), *parts]
