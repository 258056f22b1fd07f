"""What to prune, how far and when: one frozen, validated object."""

import dataclasses
import math
import numbers
import re

import keras

from keras_pruner import (
    aliases,
    allocations,
    criteria,
    patterns,
    reductions,
    regularizers,
    schedules,
)
from keras_pruner.registry import suggest
from keras_pruner.selectors import check_selector

DEFAULT_TARGET_SPARSITY = 0.9


@dataclasses.dataclass(frozen=True, kw_only=True)
class PruningConfig:
    """What to prune, how far and when.

    Every field has a default, is checked at once, and cannot be changed afterwards;
    `dataclasses.replace` makes a changed copy.

    Args:
        target_sparsity: Fraction of weights to zero, in [0, 1). Defaults to 0.9, or
            to n/m for an `n:m` pattern.
        pattern: Shape of what is pruned together: `"1x1"` (single weights, the
            default), `"NxM"` blocks of N outputs by M inputs, `"n:m"` (n of every m
            inputs pruned), `"channelx1"` (input channels), `"1xchannel"` (outputs).
        criterion: How weights are scored: `"magnitude"` (default) or `"random"`.
        allocation: How the target is divided over the kernels: `"erk"` (default),
            `"uniform"`, `"global"`, `"global_l2"`, or a dict from regular expressions
            to sparsities, or a function from a `KernelPlan` to a sparsity.
        schedule: How sparsity grows: `"polynomial"` (default), `"linear"`, `"cos"`,
            `"exp"`, `"cube"`, `"constant"`.
        initial_sparsity: Sparsity at the first update, in [0, target_sparsity].
        begin_step: Optimizer updates before the first mask update, or `None` to let
            the callback choose.
        end_step: Optimizer updates after which masks are frozen, or `None`.
        frequency: Optimizer updates between mask updates, or `None`.
        include: What to prune: regular expressions that match whole names of a
            kernel's path, layers, or functions from a `Kernel` to a bool. `None`
            means every prunable kernel.
        exclude: What to leave dense, given like `include`. Wins over `include`.
        layer_types: Names of layer classes to prune, subclasses too; `None` for all.
            `"Embedding"` must be named to be pruned.
        min_sparsity: Lowest sparsity of any one kernel, in [0, 1].
        max_sparsity: Highest sparsity of any one kernel, in [0, 1].
        group_reduction: How a group's score follows from its members': `"mean"`,
            `"sum"`, `"max"` or `"l2"`.
        regularizer: What draws weights towards zero after every step, from the
            beginning on: `None` (default), `"group_lasso"`, `"l1"` or `"l2"`.
        regularizer_strength: Its coefficient, >= 0; it is multiplied by the learning
            rate.
        low_memory_usage: Whether scores are kept in bfloat16 while masks are made: 2
            bytes a weight instead of 4. Scores that then are equal are cut by index.
        pruning_type: Registered name of the pruner, `"basic"` by default.
        resume_from_pruned_checkpoint: Whether zeros that the model already has stay
            pruned, and count.
        local_configs: Configs, or dicts of changed keys, for some of the layers. Each
            names its layers by `include`, and they leave this config.

    Raises:
        ValueError: If a value is out of its range, or two contradict.
        TypeError: If a value has the wrong type.
    """

    target_sparsity: float | None = None
    pattern: patterns.Pattern | str = "1x1"
    criterion: criteria.Criterion | str = "magnitude"
    allocation: allocations.Allocation | str = "erk"
    schedule: schedules.Schedule | str = "polynomial"
    initial_sparsity: float = 0.0
    begin_step: int | None = None
    end_step: int | None = None
    frequency: int | None = None
    include: tuple | None = None
    exclude: tuple = ()
    layer_types: tuple | None = None
    min_sparsity: float = 0.0
    max_sparsity: float = 1.0
    group_reduction: str = "mean"
    regularizer: regularizers.Regularizer | str | None = None
    regularizer_strength: float = 1e-4
    low_memory_usage: bool = False
    pruning_type: str = "basic"
    resume_from_pruned_checkpoint: bool = False
    local_configs: tuple = ()

    def __post_init__(self):
        self._normalise_components()
        self._normalise_selection()
        self._check_sparsities()
        self._check_steps()
        if self.group_reduction not in reductions.REDUCTIONS:
            raise ValueError(
                f"`group_reduction` must be one of {', '.join(reductions.REDUCTIONS)}."
                f"{suggest(self.group_reduction, reductions.REDUCTIONS)} "
                f"Received: {self.group_reduction!r}"
            )
        strength = self.regularizer_strength
        if isinstance(strength, bool) or not isinstance(strength, int | float):
            raise TypeError(
                f"`regularizer_strength` must be a number. Received: {strength!r}"
            )
        if not 0 <= strength < float("inf"):
            raise ValueError(
                f"`regularizer_strength` must be finite and >= 0. Received: {strength}"
            )
        if not isinstance(self.pruning_type, str):
            raise TypeError(
                "`pruning_type` is the registered name of a pruner. "
                f"Received: {self.pruning_type!r}"
            )
        for key in ("low_memory_usage", "resume_from_pruned_checkpoint"):
            if not isinstance(getattr(self, key), bool):
                raise TypeError(
                    f"`{key}` must be True or False. Received: {getattr(self, key)!r}"
                )
        self._normalise_local_configs()

    def _set(self, name, value):
        object.__setattr__(self, name, value)

    def _normalise_components(self):
        self._set("pattern", patterns.PATTERNS.get(self.pattern, "1x1"))
        self._set("criterion", criteria.CRITERIA.get(self.criterion, "magnitude"))
        self._set("schedule", schedules.SCHEDULES.get(self.schedule, "polynomial"))
        if self.regularizer is not None:
            known = regularizers.REGULARIZERS
            self._set("regularizer", known.get(self.regularizer))
        allocation = self.allocation
        is_spec = isinstance(allocation, dict) and set(allocation) <= {"name", "config"}
        if not isinstance(allocation, allocations.Allocation) and (
            callable(allocation) or (isinstance(allocation, dict) and not is_spec)
        ):
            allocation = allocations.Custom(allocation)
        self._set("allocation", allocations.ALLOCATIONS.get(allocation, "erk"))
        if self.target_sparsity is None:
            highest = self.pattern.max_sparsity
            default = highest if highest < 1 else DEFAULT_TARGET_SPARSITY
            self._set("target_sparsity", default)

    def _normalise_selection(self):
        for key in ("include", "exclude"):
            value = getattr(self, key)
            if value is None and key == "include":
                continue
            selectors = _as_tuple(value)
            for selector in selectors:
                check_selector(selector, key)
            self._set(key, selectors)
        if self.include == ():
            raise ValueError("`include` is empty, so nothing would be pruned.")
        if self.layer_types is not None:
            names = []
            for name in _as_tuple(self.layer_types):
                names += aliases.TYPE_ALIASES.get(name, (name,))
            if not names:
                raise ValueError("`layer_types` is empty, so nothing would be pruned.")
            for name in names:
                _check_layer_type(name)
            self._set("layer_types", tuple(dict.fromkeys(names)))

    def _check_sparsities(self):
        for key, highest_is_open in (
            ("target_sparsity", True),
            ("initial_sparsity", True),
            ("min_sparsity", False),
            ("max_sparsity", False),
        ):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, numbers.Real):
                raise TypeError(f"`{key}` must be a number. Received: {value!r}")
            inside = 0 <= value < 1 if highest_is_open else 0 <= value <= 1
            if not inside:
                hint = " (a fraction, not a percentage)" if 1 < value <= 100 else ""
                raise ValueError(
                    f"`{key}` must be in [0, 1{')' if highest_is_open else ']'}{hint}. "
                    f"Received: {value}"
                )
            self._set(key, float(value))
        if self.initial_sparsity > self.target_sparsity:
            raise ValueError(
                "`initial_sparsity` must not exceed `target_sparsity`. Received: "
                f"{self.initial_sparsity} > {self.target_sparsity}"
            )
        if self.min_sparsity > self.max_sparsity:
            raise ValueError(
                "`min_sparsity` must not exceed `max_sparsity`. Received: "
                f"{self.min_sparsity} > {self.max_sparsity}"
            )
        highest = self.pattern.max_sparsity
        for key in ("target_sparsity", "min_sparsity"):
            if getattr(self, key) > highest:
                raise ValueError(
                    f"Pattern '{self.pattern}' prunes at most {highest:g} of a kernel, "
                    f"so `{key}` cannot be met. Lower it to {highest:g}, or use "
                    f"another pattern. Received: {getattr(self, key)}"
                )
        if not self.allocation.is_absolute and not (
            self.min_sparsity <= self.target_sparsity <= self.max_sparsity
        ):
            raise ValueError(
                "The caps cannot meet the target: kernels that each have a sparsity in "
                f"[{self.min_sparsity}, {self.max_sparsity}] cannot have "
                f"{self.target_sparsity} together. Change `min_sparsity`, "
                "`max_sparsity` or `target_sparsity`."
            )

    def _check_steps(self):
        for key, lowest in (("begin_step", 0), ("end_step", 0), ("frequency", 1)):
            value = getattr(self, key)
            if value is None:
                continue
            if not _is_whole(value):
                raise TypeError(f"`{key}` must be an integer. Received: {value!r}")
            if value < lowest:
                raise ValueError(f"`{key}` must be >= {lowest}. Received: {value}")
            self._set(key, int(value))
        if None not in (self.begin_step, self.end_step):
            if self.end_step < self.begin_step:
                raise ValueError(
                    "`end_step` must not come before `begin_step`. Received: "
                    f"begin_step={self.begin_step}, end_step={self.end_step}"
                )

    def _normalise_local_configs(self):
        made = []
        for number, local in enumerate(_as_tuple(self.local_configs)):
            if isinstance(local, dict):
                changes = rename_keys(local)
                own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
                own |= {"local_configs": (), "include": None, "exclude": ()}
                if "target_sparsity" not in changes:
                    own["target_sparsity"] = self._target_for(changes.get("pattern"))
                local = PruningConfig(**(own | changes))
            if not isinstance(local, PruningConfig):
                raise TypeError(
                    "`local_configs` holds PruningConfigs or dicts. "
                    f"Received: {local!r}"
                )
            if local.local_configs:
                raise ValueError("A local config has no local configs of its own.")
            if local.include is None and local.layer_types is None:
                raise ValueError(
                    f"Local config {number} must name its layers by `include` "
                    "(op_names) or `layer_types`, else it would take them all."
                )
            made.append(local)
        self._set("local_configs", tuple(made))

    def _target_for(self, pattern):
        """Returns this target, or `None` if a local pattern cannot meet it."""
        pattern = patterns.PATTERNS.get(pattern, self.pattern)
        meets = self.target_sparsity <= pattern.max_sparsity
        return self.target_sparsity if meets else None

    @classmethod
    def from_dict(cls, config):
        """Builds a config from a dict of fields.

        Besides the fields' names it takes those of Intel Neural Compressor, listed in
        `docs/config.md`. The dict is not changed.

        Args:
            config: Dict.

        Raises:
            ValueError: If a key is unknown (the message names the nearest known one),
                given twice under two names, or its value is invalid.
        """
        if not isinstance(config, dict):
            raise TypeError(
                f"A pruning config is given as a dict. Received: {config!r}"
            )
        return cls(**rename_keys(config))

    def to_dict(self):
        """Returns plain values from which `from_dict` makes an equal config.

        Layers in `include` and `exclude` become their names.

        Raises:
            ValueError: If a selector or allocation is a function.
        """
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for key, registry in (
            ("pattern", patterns.PATTERNS),
            ("criterion", criteria.CRITERIA),
            ("allocation", allocations.ALLOCATIONS),
            ("schedule", schedules.SCHEDULES),
            ("regularizer", regularizers.REGULARIZERS),
        ):
            if values[key] is not None:
                values[key] = registry.serialize(values[key])
        for key in ("include", "exclude"):
            if values[key] is not None:
                values[key] = [_plain_selector(s, key) for s in values[key]]
        if values["layer_types"] is not None:
            values["layer_types"] = list(values["layer_types"])
        values["local_configs"] = [local.to_dict() for local in self.local_configs]
        return values

    def __repr__(self):
        defaults = PruningConfig()
        changed = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)
            if field.name == "target_sparsity"
            or getattr(self, field.name) != getattr(defaults, field.name)
        ]
        return f"PruningConfig({', '.join(changed)})"


def as_config(config):
    """Returns a `PruningConfig` for a config, a dict, or `None` (all defaults)."""
    if config is None:
        return PruningConfig()
    if isinstance(config, PruningConfig):
        return config
    return PruningConfig.from_dict(config)


def _is_whole(value):
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    return math.isfinite(value) and int(value) == value


def _as_tuple(value):
    if value is None:
        return ()
    if isinstance(value, list | tuple | set | frozenset):
        return tuple(value)
    return (value,)


def _check_layer_type(name):
    if not isinstance(name, str):
        raise TypeError(
            f"`layer_types` takes names of layer classes. Received: {name!r}"
        )


def _plain_selector(selector, key):
    if isinstance(selector, str):
        return selector
    if isinstance(selector, keras.layers.Layer):
        return re.escape(selector.name)
    raise ValueError(
        f"`{key}` holds a function, which cannot be saved. Use a regular expression. "
        f"Received: {selector!r}"
    )


def rename_keys(config):
    """Returns a copy of a dict of settings with the fields' names as its keys."""
    known = [field.name for field in dataclasses.fields(PruningConfig)]
    return aliases.rename_keys(config, known)
