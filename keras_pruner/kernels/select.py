"""Finds the kernels of a model once and divides them over configs."""

import dataclasses

import keras

from keras_pruner.checks import did_you_mean
from keras_pruner.kernels.filters import names_any, select
from keras_pruner.kernels.find import NO_WEIGHTS, find_all_kernels, find_wrapped
from keras_pruner.kernels.kernel import Kernel, KernelSearch, Skipped
from keras_pruner.kernels.layouts import conv_layout, dense_layout

NOT_SELECTED = "not selected by `include` or `layer_types`"
EXCLUDED = "excluded by `exclude`"
FROZEN = "frozen: the layer has trainable=False"


@dataclasses.dataclass(frozen=True)
class Selection:
    """The kernels that one config prunes.

    Args:
        config: `PruningConfig` without local configs.
        kernels: Tuple of `Kernel`s that the config selects and its pattern takes.
        skipped: Tuple of `Skipped`: the kernels that stay dense, each with its reason.
            The first selection of a model also has those that no config selects.
        modules: The model, or the dict, that was searched.
    """

    config: object
    kernels: tuple[Kernel, ...]
    skipped: tuple[Skipped, ...]
    modules: object

    def check_not_empty(self) -> None:
        """Raises a `ValueError` that names every skipped kernel if none is left."""
        if self.kernels:
            return
        reasons = "\n".join(f"  {s.path} {s.shape}: {s.reason}" for s in self.skipped)
        raise ValueError(
            "Nothing in the model can be pruned with this config.\n"
            + (reasons or "  It has no weights of two or more axes.")
        )


def select_kernels(modules, config):
    """Divides the kernels of a model between a config and its local configs.

    A local config takes the kernels that it selects. The others stay with the main
    config. So every kernel has one config, and one reason if it stays dense.

    Args:
        modules: Model, layer, or dict; see `KerasBasePruner`. Or an object with a
            method `find_kernels()` that returns a `KernelSearch`.
        config: `PruningConfig`.

    Returns:
        List of `Selection`s, the main config's first. It is left out if the local
        configs take all kernels.

    Raises:
        ValueError: If two local configs select the same kernel, or a filter matches
            no kernel.
        TypeError: If `modules` holds anything else.
    """
    return _divide(*_find(modules), modules, config)


def select_in_model(model, config):
    """Divides the wrapped kernels of a model if it has some, else all its kernels.

    Each wrapped kernel goes to the config of its wrapper. Wrappers of equal configs
    share one selection, and so one global ranking.

    Args:
        model: Built Keras model.
        config: `PruningConfig` for wrappers without one, and for a model without any.

    Returns:
        List of `Selection`s.

    Raises:
        ValueError: As `select_kernels`.
    """
    kernels, skipped = _find(model)
    wrapped = [
        # Whoever wrapped a kernel has asked for it.
        dataclasses.replace(kernel, on_request=None)
        for kernel in kernels
        if kernel.wrapper_mask is not None
    ]
    if not wrapped:
        # Wrapped layers may all be frozen.
        free = [] if find_wrapped(model) else kernels
        return _divide(free, skipped, model, config)
    groups = []
    for kernel in wrapped:
        own_config = kernel.wrapper.pruning_config or config
        for known, members in groups:
            if known == own_config:
                members.append(kernel)
                break
        else:
            groups.append((own_config, [kernel]))
    return [
        selection
        for own_config, members in groups
        for selection in _divide(members, [], model, own_config)
    ]


def _divide(kernels, skipped, modules, config):
    """Divides kernels between a config and its local configs; see `select_kernels`.

    Args:
        kernels: List of trainable `Kernel`s.
        skipped: List of `Skipped` that no config can select.
        modules: Where the kernels were found.
        config: `PruningConfig`.
    """
    claims, parts = {}, []
    frozen = [skip for skip in skipped if skip.reason == FROZEN]
    for number, local in enumerate(config.local_configs):
        chosen, _ = _choose(kernels, local, skipped)
        for kernel in chosen:
            other = claims.setdefault(id(kernel), number)
            if other != number:
                raise ValueError(
                    f"Local configs {other} and {number} both select '{kernel.path}'. "
                    "Each kernel belongs to one config: exclude it from one of them."
                )
        # Its layers may be frozen now, and trained later.
        if chosen or not names_any(local.include or (), frozen):
            parts.append((local, chosen))
    main = config
    if config.local_configs:
        main = dataclasses.replace(config, local_configs=())
    chosen, left_out = _choose(kernels, main, skipped)
    rest = [kernel for kernel in chosen if id(kernel) not in claims]
    left_out = [skip for kernel, skip in left_out if id(kernel) not in claims]
    if rest or not claims:
        parts.insert(0, (main, rest))
    selections = [_fit_pattern(*part, modules) for part in parts]
    first = selections[0]
    # A pattern may mask variables with others that nobody selects, as embeddings.
    taken = {kernel.path for selection in selections for kernel in selection.kernels}
    left = [skip for skip in (*skipped, *left_out) if skip.path not in taken]
    skipped = (*left, *first.skipped)
    return [dataclasses.replace(first, skipped=skipped), *selections[1:]]


def _find(modules):
    """Returns lists of the trainable kernels and of the `Skipped`, each once."""
    members = modules
    if isinstance(modules, keras.layers.Layer) or hasattr(modules, "find_kernels"):
        members = {None: modules}
    if not isinstance(members, dict):
        raise TypeError(
            "`modules` must be a dict from a name to a Keras layer, a keras.Variable "
            f"or a Kernel, or a model. Received: {type(modules).__name__}"
        )
    kernels, skipped, seen = [], [], set()
    for name, member in members.items():
        found = _search(name, member)
        skipped += found.skipped
        for kernel in found.kernels:
            # A shared layer is one layer, whatever names it has.
            if id(kernel.variable) in seen:
                continue
            seen.add(id(kernel.variable))
            if not kernel.layout.size:
                skipped.append(kernel.skip(NO_WEIGHTS))
            elif kernel.variable.trainable:
                kernels.append(kernel)
            else:
                skipped.append(kernel.skip(FROZEN))
    return kernels, skipped


def _search(name, module):
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
            return module.find_kernels()
        raise TypeError(
            f"Module '{name}' must be a Keras layer, a keras.Variable or a Kernel. "
            f"Received: {module!r} of type {type(module).__name__}"
        )
    if not module.built:
        raise ValueError(
            f"'{module.name}' is not built, so its weights do not exist yet. Call it "
            "on data once, or `build(input_shape)`, before pruning."
        )
    mode = getattr(module, "quantization_mode", None)
    if mode not in (None, "float8") and name is not None:
        raise ValueError(
            f"Layer '{module.name}' is quantized ({mode}), so its "
            "kernel is computed. Prune before `quantize`."
        )
    found = find_all_kernels(module, name=name)
    if name is not None and len(found.kernels) == 1:
        kernel = dataclasses.replace(found.kernels[0], path=name)
        return KernelSearch((kernel,), found.skipped)
    return found


def _choose(kernels, config, skipped):
    """Applies the filters of a config.

    Args:
        kernels: List of trainable `Kernel`s.
        config: `PruningConfig` without local configs.
        skipped: List of `Skipped` that no config can select, which a filter may name.

    Returns:
        Tuple of the list of chosen kernels, and of a list of pairs of a kernel that is
        left out and its `Skipped`.
    """
    names = set(config.layer_types or ())
    unasked = [k for k in kernels if k.on_request and not names & _classes(k)]
    left_out = [(kernel, kernel.skip(kernel.on_request)) for kernel in unasked]
    if config.layer_types is not None:
        _check_types(kernels, config.layer_types)
    ids = set(map(id, unasked))
    kernels = [kernel for kernel in kernels if id(kernel) not in ids]
    chosen = kernels
    if config.layer_types is not None:
        chosen = _of_types(kernels, config.layer_types)
    if config.include is not None:
        included = set(map(id, select(kernels, config.include, "include", skipped)))
        chosen = [kernel for kernel in chosen if id(kernel) in included]
    excluded = set(map(id, select(kernels, config.exclude, "exclude", skipped)))
    picked = set(map(id, chosen)) - excluded
    left_out += [
        (kernel, kernel.skip(EXCLUDED if id(kernel) in excluded else NOT_SELECTED))
        for kernel in kernels
        if id(kernel) not in picked
    ]
    return [kernel for kernel in chosen if id(kernel) in picked], left_out


def _classes(kernel):
    """Returns the names of the classes of a kernel's layer."""
    names = [cls.__name__ for cls in type(kernel.layer).__mro__]
    if kernel.on_request and "Embedding" in names:
        # The base of all layers asks for no table.
        names = names[: names.index("Embedding") + 1]
    return set(names)


def _of_types(kernels, names):
    return [kernel for kernel in kernels if _classes(kernel) & set(names)]


def _check_types(kernels, names):
    """Raises an error if no layer has one of the classes, or a name is misspelt."""
    present = sorted({type(kernel.layer).__name__ for kernel in kernels})
    known = {name for kernel in kernels for name in _classes(kernel)}
    if not known & set(names):
        raise ValueError(
            f"`layer_types` has {', '.join(names)}, but the prunable layers are of the "
            f"classes: {', '.join(present) or 'none'}."
        )
    # Intel's names include those of torch, such as `Conv1d`.
    of_keras = {name.lower() for name in dir(keras.layers)}
    for name in names:
        if name in known or name.lower() in of_keras:
            continue
        hint = did_you_mean(name, known)
        if hint:
            raise ValueError(
                f"`layer_types` has '{name}', a class that no prunable layer has.{hint}"
            )


def _fit_pattern(config, kernels, modules):
    """Returns the `Selection` of the kernels that take the config's pattern."""
    kernels, skipped = config.pattern.place(kernels, modules)
    reasons = [(kernel, _refusal(kernel, config)) for kernel in kernels]
    return Selection(
        config,
        tuple(kernel for kernel, reason in reasons if reason is None),
        (
            *skipped,
            *(k.skip(reason) for k, reason in reasons if reason is not None),
        ),
        modules,
    )


def _refusal(kernel, config):
    """Returns why a kernel stays dense under the config's pattern, or `None`."""
    is_asked_for = config.include is not None or kernel.wrapper_mask is not None
    if kernel.is_output and config.pattern.removes_outputs and not is_asked_for:
        return (
            f"pattern '{config.pattern}' would remove outputs of the model: to prune "
            "them too, name the layer in `include`"
        )
    return config.refusal(kernel)
