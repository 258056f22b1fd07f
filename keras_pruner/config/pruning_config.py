"""Defines `PruningConfig`: what to prune, how far and when."""

import copy
import dataclasses
from typing import TYPE_CHECKING, Any, Self, Unpack

from keras_pruner.backend import REDUCTIONS
from keras_pruner.checks import (
    check_bool,
    check_choice,
    check_in_range,
    check_mask_bits,
    check_sparsities,
    check_steps,
    naming,
    plain_dict,
    shown,
)
from keras_pruner.components import (
    ALLOCATIONS,
    CAPABILITIES,
    CRITERIA,
    PATTERNS,
    REGULARIZERS,
    SCHEDULES,
    Allocation,
    Capability,
    Criterion,
    EngineCapability,
    Pattern,
    Regularizer,
    Schedule,
    capability_of,
)
from keras_pruner.config.forms import (
    agrees,
    as_allocation,
    as_tuple,
    layer_type_names,
    plain_selector,
    refuse_foreign_value,
    with_open_pattern,
)
from keras_pruner.config.pruner_type import PRUNERS
from keras_pruner.config.settings import (
    FAMILIES,
    Settings,
    rename_keys,
    takes_every_name,
)
from keras_pruner.intel_names import split_pruning_type
from keras_pruner.kernels import Kernel, check_selector

DEFAULT_TARGET_SPARSITY = 0.9
# The constructor replaces it.
_OPEN: Any = None


@takes_every_name
@dataclasses.dataclass(frozen=True, kw_only=True)
class PruningConfig:
    """Says what to prune, how far and when.

    Every field has a default. The constructor takes fields by name, under their own
    names or those of Intel Neural Compressor. It checks all of them, also against the
    pruner, and freezes them; use `dataclasses.replace` to make a changed copy.

    Example:

    >>> PruningConfig(pattern="2:4", exclude="head")
    PruningConfig(target_sparsity=0.5, pattern=NOfM(n=2, m=4), exclude=('head',))
    >>> # With the names of Intel Neural Compressor:
    >>> PruningConfig(pruning_scope="local", start_step=10)
    PruningConfig(target_sparsity=0.9, allocation=Uniform(), begin_step=10)

    Args:
        target_sparsity: Fraction of weights to zero, in [0, 1). Defaults to 0.9, or
            to n/m for an `n:m` pattern.
        pattern: Shape of the groups that are pruned together: `"1x1"` (single weights),
            `"NxM"` (blocks of N outputs by M inputs), `"n:m"` (n of every m inputs),
            `"channelx1"` (input channels), `"1xchannel"` (outputs), `"mha"` (attention
            heads), `"channel_groups"` (whole channels of a model). Defaults to `"1x1"`,
            or to the choice of `for_engine`.
        for_engine: Name of the engine that will run the model, e.g. `"litert"`, or
            `None`. It chooses the pattern, and leaves kernels dense that the engine
            does not reward; `capability_of` says what it rewards.
        criterion: How weights are scored, e.g. `"magnitude"`, `"snip_momentum"`;
            `docs/algorithms.md` lists all. With `None` the pruner chooses. The default
            pruner takes `"magnitude"` up to a target of 80 %, and above that
            `"second_moment"`, which needs no memory either.
        allocation: How the target is divided over the kernels: `"erk"`, `"uniform"`,
            `"global"`, `"global_l2"`, a dict from regular expressions to sparsities,
            or a function from a `KernelPlan` to a sparsity. With `None` the pruner,
            criterion and pattern choose: `"global_l2"` for single weights scored by
            magnitude or `"second_moment"` and for channel groups, `"global"` for single
            weights scored by gradients, `"erk"` for other groups.
        schedule: How sparsity grows: `"polynomial"`, `"linear"`, `"cos"`, `"exp"`,
            `"cube"`, `"constant"`. With `None` the pruner chooses; gradual pruners
            choose `"polynomial"` up to a target of 80 %, and above that `"exp"` of
            power 2, which comes near the target sooner.
        initial_sparsity: Sparsity at the first update, in [0, target_sparsity].
        begin_step: Optimizer updates before the first mask update. With `None` the
            callback chooses.
        end_step: Optimizer updates after which masks are frozen, or `None`.
        frequency: Optimizer updates between mask updates, or `None`.
        include: Kernels to prune: regular expressions that match whole names of a
            kernel's path, layers, or functions from a `Kernel` to a bool. `None`
            means every prunable kernel.
        exclude: Kernels to leave dense, given like `include`. It wins over `include`.
        layer_types: Layer classes to prune, or their names, with their subclasses;
            `None` for all. Embeddings are pruned only if `"Embedding"` is named. A
            class is kept as its name.
        min_sparsity: Lowest sparsity of any one kernel, in [0, 1].
        max_sparsity: Highest sparsity of any one kernel, in [0, 1]. With `None` no
            kernel becomes empty: each keeps a floor, as `docs/algorithms.md` defines
            it. With 1.0 kernels may become empty.
        group_reduction: How the scores of a group's members become its score:
            `"mean"`, `"sum"`, `"max"` or `"l2"`.
        regularizer: Draws weights towards zero after every step: `None` (default);
            `"group_lasso"`, `"l1"` or `"l2"` on all weights from the first step on; or
            `"growing_l1"` or `"growing_l2"` on the weights to be pruned.
        regularizer_strength: Coefficient, >= 0, multiplied by the learning rate.
        low_memory_usage: Whether an update keeps scores in bfloat16: 2 bytes a weight
            instead of 4. Scores that rounding makes equal are pruned by index.
        mask_bits: Bits of memory that a mask takes for each weight: 8 (the default),
            or 1, which training steps unpack. The masks are the same. Files always
            hold 1 bit a weight.
        pruning_type: Registered name of the pruner, `"basic"` by default. As in Intel
            Neural Compressor you can also name a gradient criterion, alone or with
            the suffix `"_progressive"`: `"snip_momentum_progressive"`.
        pruner_options: Dict of settings of the pruner, by name: numbers, strings,
            bools, lists and dicts.
        resume_from_pruned_checkpoint: Whether zeros that the model already has stay
            pruned, and count.
        local_configs: Configs, or dicts of changed keys, for some of the layers. Each
            names its layers by `include`; this config then skips them.

    Raises:
        ValueError: If a name is unknown, a value is out of its range, two values
            contradict, or the pruner cannot work with them.
        TypeError: If a value has the wrong type, or is given without its name.
    """

    target_sparsity: float = _OPEN
    pattern: Pattern = _OPEN
    for_engine: EngineCapability | None = None
    criterion: Criterion | None = None
    allocation: Allocation | None = None
    schedule: Schedule | None = None
    initial_sparsity: float = 0.0
    begin_step: int | None = None
    end_step: int | None = None
    frequency: int | None = None
    include: tuple | None = None
    exclude: tuple = ()
    layer_types: tuple | None = None
    min_sparsity: float = 0.0
    max_sparsity: float | None = None
    group_reduction: str = "mean"
    regularizer: Regularizer | None = None
    regularizer_strength: float = 1e-4
    low_memory_usage: bool = False
    mask_bits: int = 8
    pruning_type: str = "basic"
    pruner_options: dict = dataclasses.field(default_factory=dict, hash=False)
    resume_from_pruned_checkpoint: bool = False
    local_configs: tuple = ()

    if TYPE_CHECKING:
        # The fields have the types that they hold, `Settings` those that you can write.
        def __init__(self, **settings: Unpack[Settings]) -> None: ...

    def __post_init__(self) -> None:
        self._normalise_pruner()
        self._normalise_components()
        self._normalise_selection()
        check_sparsities(self, self._set)
        check_steps(self, self._set)
        check_choice(self.group_reduction, "`group_reduction`", REDUCTIONS)
        strength = check_in_range(
            self.regularizer_strength, "`regularizer_strength`", 0
        )
        self._set("regularizer_strength", strength)
        for key in ("low_memory_usage", "resume_from_pruned_checkpoint"):
            self._set(key, check_bool(getattr(self, key), f"`{key}`"))
        check_mask_bits(self, self._set)
        PRUNERS[self.pruning_type].complete(self)
        self._normalise_local_configs()

    def _set(self, name, value):
        object.__setattr__(self, name, value)

    def _normalise_pruner(self):
        if not isinstance(self.pruning_type, str):
            raise TypeError(
                "`pruning_type` is the registered name of a pruner. "
                f"Received: {shown(self.pruning_type)}"
            )
        name, criterion = split_pruning_type(self.pruning_type, CRITERIA)
        refuse_foreign_value("pruning_type", PRUNERS, name)
        if name not in PRUNERS:
            raise ValueError(f"`pruning_type`: {PRUNERS.unknown(name)}")
        if criterion is not None:
            if not agrees(self.criterion, criterion):
                raise ValueError(
                    f"`pruning_type='{self.pruning_type}'` says the criterion "
                    f"'{criterion}', but `criterion` is {shown(self.criterion)}. Give "
                    "one."
                )
            self._set("criterion", criterion)
        self._set("pruning_type", name)
        options = {} if self.pruner_options is None else self.pruner_options
        self._set("pruner_options", plain_dict(options, "`pruner_options`"))

    def completed(
        self, criterion: str, schedule: Any, allocation: str | None = None
    ) -> Self:
        """Returns a config with the pruner's defaults in place of `None`.

        Args:
            criterion: Name of the default criterion.
            schedule: Name of the default schedule, or its name and config.
            allocation: Name of the default allocation. With `None` the criterion
                chooses, or else the pattern.

        Raises:
            ValueError: If the criterion cannot work with the rest.
        """
        found = CRITERIA.get(self.criterion, criterion)
        allocation = allocation or found.default_allocation
        if allocation is None and self.pattern.is_unstructured:
            # The most accurate of docs/accuracy.md.
            allocation = "global" if found.is_comparable else "global_l2"
        allocation = allocation or self.pattern.default_allocation
        # The constructor calls this, so it makes the copy without it.
        config = copy.copy(self)
        config._set("criterion", found)
        config._set("schedule", SCHEDULES.get(self.schedule, schedule))
        config._set("allocation", ALLOCATIONS.get(self.allocation, allocation or "erk"))
        found.check(config)
        config.allocation.check(config)
        config.pattern.check(config)
        return config

    def _normalise_components(self):
        for key, registry in FAMILIES.items():
            refuse_foreign_value(key, registry, getattr(self, key))
        if self.for_engine is not None:
            with naming("`for_engine`"):
                self._set("for_engine", CAPABILITIES.get(self.for_engine))
                self._set("pattern", self.for_engine.choose_pattern(self.pattern))
        self._set("pattern", PATTERNS.get(self.pattern, "1x1"))
        for key, registry in (
            ("criterion", CRITERIA),
            ("schedule", SCHEDULES),
            ("regularizer", REGULARIZERS),
        ):
            if getattr(self, key) is not None:
                self._set(key, registry.get(getattr(self, key)))
        if self.allocation is not None:
            self._set("allocation", as_allocation(self.allocation))
        if self.target_sparsity is None:
            highest = self.pattern.max_sparsity
            default = highest if highest < 1 else DEFAULT_TARGET_SPARSITY
            self._set("target_sparsity", default)

    def _normalise_selection(self):
        for key in ("include", "exclude"):
            value = getattr(self, key)
            if value is None and key == "include":
                continue
            selectors = as_tuple(value)
            for selector in selectors:
                check_selector(selector, key)
            self._set(key, selectors)
        if self.include == ():
            raise ValueError("`include` is empty, so nothing would be pruned.")
        if self.layer_types is not None:
            names = layer_type_names(self.layer_types)
            if not names:
                raise ValueError("`layer_types` is empty, so nothing would be pruned.")
            self._set("layer_types", names)

    def _normalise_local_configs(self):
        made = []
        for number, local in enumerate(as_tuple(self.local_configs)):
            with naming(f"`local_configs[{number}]`"):
                made.append(self._local_config(local))
        self._set("local_configs", tuple(made))

    def _local_config(self, local):
        if isinstance(local, dict):
            changes = with_open_pattern(self, rename_keys(local))
            if as_tuple(changes.get("local_configs")):
                raise ValueError("A local config has no local configs of its own.")
            own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
            own |= {"local_configs": (), "include": None, "exclude": ()}
            if "pruning_type" in changes:
                own |= {"criterion": None, "pruner_options": {}}
            if "target_sparsity" not in changes:
                own["target_sparsity"] = self._target_for(changes.get("pattern"))
            local = PruningConfig(**(own | changes))
        if not isinstance(local, PruningConfig):
            raise TypeError(
                f"A local config is a PruningConfig or a dict. Received: {shown(local)}"
            )
        if local.local_configs:
            raise ValueError("A local config has no local configs of its own.")
        if local.include is None and local.layer_types is None:
            raise ValueError(
                "It must name its layers by `include` (op_names) or `layer_types`, "
                "else it would take them all."
            )
        return local

    def refusal(self, kernel: Kernel) -> str | None:
        """Returns why a `Kernel` stays dense under engine and pattern, or `None`."""
        reason = None
        if self.for_engine is not None:
            reason = self.for_engine.refusal(kernel, self.pattern)
        return reason or self.pattern.refusal(kernel)

    def capability(self, sparsity: float | None = None) -> Capability | None:
        """Returns the `Capability` of `for_engine` on this machine, or `None`.

        Args:
            sparsity: Share of zeros; `None` for the target.
        """
        if self.for_engine is None:
            return None
        sparsity = self.target_sparsity if sparsity is None else sparsity
        engine, pattern = self.for_engine, self.pattern
        return capability_of(engine, pattern, sparsity=sparsity, dtype=engine.dtype)

    def _target_for(self, pattern):
        """Returns this target, or `None` if a local pattern cannot meet it."""
        pattern = PATTERNS.get(pattern, self.pattern)
        meets = self.target_sparsity <= pattern.max_sparsity
        return self.target_sparsity if meets else None

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Returns a dict from the name of each field to its default."""
        return {
            field.name: {} if field.name == "pruner_options" else field.default
            for field in dataclasses.fields(cls)
        }

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> Self:
        """Builds a config from a dict of fields.

        The keys are names of fields, or of Intel Neural Compressor as listed in
        `docs/config.md`. The dict is not changed.

        Args:
            config: Dict.

        Raises:
            ValueError: If a key is unknown (the message names the nearest known one),
                a setting has two names in the dict, or a value is invalid.
        """
        if not isinstance(config, dict):
            raise TypeError(
                f"A pruning config is given as a dict. Received: {shown(config)}"
            )
        return cls(**rename_keys(config))

    def to_dict(self) -> dict[str, Any]:
        """Returns a dict of plain values; `from_dict` makes an equal config of it.

        Layers in `include` and `exclude` become their names.

        Raises:
            ValueError: If a selector or allocation is a function.
        """
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for key, registry in FAMILIES.items():
            if values[key] is not None:
                values[key] = registry.serialize(values[key])
        for key in ("include", "exclude"):
            if values[key] is not None:
                values[key] = [plain_selector(s, key) for s in values[key]]
        if values["layer_types"] is not None:
            values["layer_types"] = list(values["layer_types"])
        values["local_configs"] = [local.to_dict() for local in self.local_configs]
        return values

    def __repr__(self) -> str:
        defaults = PruningConfig()
        changed = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)
            if field.name == "target_sparsity"
            or getattr(self, field.name) != getattr(defaults, field.name)
        ]
        return f"PruningConfig({', '.join(changed)})"
