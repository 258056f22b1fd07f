"""Maps the setting names of Intel Neural Compressor to the names here."""

# Intel Neural Compressor's key -> the field's name here.
KEY_ALIASES = {
    "op_names": "include",
    "excluded_op_names": "exclude",
    "pruning_op_types": "layer_types",
    "start_step": "begin_step",
    "pruning_frequency": "frequency",
    "pruning_scope": "allocation",
    "sparsity_decay_type": "schedule",
    "criterion_type": "criterion",
    "criterion_reduce_type": "group_reduction",
    "min_sparsity_ratio_per_op": "min_sparsity",
    "max_sparsity_ratio_per_op": "max_sparsity",
    "reg_type": "regularizer",
    "reg_coeff": "regularizer_strength",
    "pruning_configs": "local_configs",
}

# Values with another spelling in Intel Neural Compressor, by field.
VALUE_ALIASES = {
    "regularizer": {"none": None},
}

# Intel Neural Compressor's type name -> classes of Keras and torch.
TYPE_ALIASES = {
    "Linear": ("Dense", "Linear"),
    "Conv": ("Conv1D", "Conv2D", "Conv3D", "Conv1d", "Conv2d", "Conv3d"),
}


def renamed(settings):
    """Returns a copy of a dict of settings with the fields' names as its keys.

    Args:
        settings: Dict with fields' names or Intel's as keys.

    Raises:
        ValueError: If a setting has two names in the dict.
    """
    values = {}
    for key, value in settings.items():
        name = KEY_ALIASES.get(key, key)
        if name in values:
            other = next(k for k in settings if KEY_ALIASES.get(k) == name)
            raise ValueError(
                f"'{other}' and '{name}' are the same setting, given twice."
            )
        if isinstance(value, str):
            value = VALUE_ALIASES.get(name, {}).get(value, value)
        values[name] = value
    if isinstance(settings.get("op_names"), list | tuple) and not settings["op_names"]:
        # Intel's empty `op_names` means every layer.
        values["include"] = None
    return values


def split_pruning_type(name, criteria):
    """Splits a `pruning_type` that names a criterion, as Intel's do.

    Args:
        name: E.g. `"snip_momentum_progressive"`, `"snip_momentum"` or `"rigl"`.
        criteria: Dict from the name of a criterion to its class.

    Returns:
        Tuple of the pruner's name and the criterion's name, or `None` without one.
    """
    stem = name.removesuffix("_progressive")
    is_pruner = name in criteria and criteria[name].has_pruner
    if stem not in criteria or is_pruner:
        return name, None
    return ("progressive" if name != stem else "basic"), stem
