"""The config of Intel Neural Compressor, as a `PruningConfig` of this package."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from keras_pruner.config import PruningConfig
from keras_pruner.intel_names import KEY_ALIASES
from keras_pruner.kernels import Kernel

# The method that prunes without training.
SPARSE_GPT = "sparse_gpt"
_LISTS = ("op_names", "excluded_op_names", "pruning_op_types")


class WeightPruningConfig:
    """Says what to prune and when, with the keys and defaults of Intel's config.

    Args:
        pruning_configs: List of dicts of the other keys: each prunes the layers that it
            names, by its own values and these for the rest. An empty dict stands for
            all layers that no other dict names. If no dict is empty, layers that no
            dict names stay dense.
        target_sparsity: Share of weights to zero, in [0, 1).
        pruning_type: Criterion, pruner or both, e.g. `"magnitude"`, `"snip_momentum"`,
            `"snip_momentum_progressive"`, `"pattern_lock"`; any `pruning_type` of
            `PruningConfig`; or `"sparse_gpt"`, which needs a `dataloader`.
        pattern: `"NxM"` (N outputs by M inputs), `"N:M"`, `"channelx1"`, `"1xchannel"`.
        op_names: Regular expressions; a layer is pruned if one is found in its name.
            Empty for all layers.
        excluded_op_names: Regular expressions of the names of layers to leave dense.
        backend: Kept, and without effect.
        start_step: Step of the first mask update. Criteria that need gradients begin
            at step 1 or later.
        end_step: Step after which masks stay.
        pruning_scope: `"global"` or `"local"`: whether layers compete.
        pruning_frequency: Steps between two updates.
        min_sparsity_ratio_per_op: Lowest sparsity of a layer.
        max_sparsity_ratio_per_op: Highest sparsity of a layer.
        sparsity_decay_type: `"exp"`, `"linear"`, `"cos"` or `"cube"`.
        pruning_op_types: Classes of layers, where `"Conv"` and `"Linear"` stand for
            those of Keras and torch.
        low_memory_usage: Whether scores have 16 bits.
        **kwargs: Further keys of Intel's config, e.g. `reg_type` or
            `resume_from_pruned_checkpoint`; or fields of `PruningConfig`.

    Attributes:
        weight_compression: Dict of all keys except `pruning_configs` and `backend`.
            Its keys are attributes, too.
    """

    def __init__(
        self,
        pruning_configs: Sequence[dict[str, Any]] = ({},),
        target_sparsity: float = 0.9,
        pruning_type: str = "snip_momentum",
        pattern: str = "4x1",
        op_names: Sequence[str] = (),
        excluded_op_names: Sequence[str] = (),
        backend: str | None = None,
        start_step: int = 0,
        end_step: int = 0,
        pruning_scope: str = "global",
        pruning_frequency: int = 1,
        min_sparsity_ratio_per_op: float = 0.0,
        max_sparsity_ratio_per_op: float = 0.98,
        sparsity_decay_type: str = "exp",
        pruning_op_types: Sequence[str] = ("Conv", "Linear"),
        low_memory_usage: bool = False,
        **kwargs: Any,
    ) -> None:
        self.pruning_configs = _list_of_dicts(pruning_configs)
        self.backend = backend
        self._weight_compression = _Keys(
            target_sparsity=target_sparsity,
            pruning_type=pruning_type,
            pattern=pattern,
            op_names=_as_list(op_names),
            excluded_op_names=_as_list(excluded_op_names),
            start_step=start_step,
            end_step=end_step,
            pruning_scope=pruning_scope,
            pruning_frequency=pruning_frequency,
            min_sparsity_ratio_per_op=min_sparsity_ratio_per_op,
            max_sparsity_ratio_per_op=max_sparsity_ratio_per_op,
            sparsity_decay_type=sparsity_decay_type,
            pruning_op_types=_as_list(pruning_op_types),
            low_memory_usage=low_memory_usage,
            **kwargs,
        )

    @property
    def weight_compression(self) -> dict[str, Any]:
        return self._weight_compression

    @weight_compression.setter
    def weight_compression(self, values: Mapping[str, Any]) -> None:
        self._weight_compression = _Keys(values)

    @property
    def is_sparse_gpt(self) -> bool:
        """Whether it asks for SparseGPT, which prunes without training."""
        return self.weight_compression["pruning_type"] == SPARSE_GPT

    def to_pruning_config(self) -> PruningConfig:
        """Returns the `PruningConfig` of this package that prunes alike.

        Raises:
            ValueError: If a key is unknown, or a value is out of its range.
        """
        keys = dict(self.weight_compression)
        locals_ = [local for local in self.pruning_configs if local]
        main = _config_of(keys)
        if not locals_:
            return main
        excluded = main.exclude
        if len(locals_) == len(self.pruning_configs):
            # Only the layers that a local config names are pruned.
            excluded = (".*",)
        made = tuple(_config_of(keys | local) for local in locals_)
        return dataclasses.replace(main, exclude=excluded, local_configs=made)


class _Keys(dict):
    """A dict whose keys are attributes."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"The config has no key '{name}'.") from None

    def __setattr__(self, name, value):
        self[name] = value


class NameHas:
    """Selects the kernels of layers in whose name a regular expression is found.

    Args:
        expression: Regular expression, for names with `.` or `/` between their parts.
    """

    def __init__(self, expression: str) -> None:
        self.expression = expression
        try:
            self._regex = re.compile(expression)
        except re.error as error:
            raise ValueError(
                f"`op_names` and `excluded_op_names` hold regular expressions. "
                f"Received: {expression!r}: {error}"
            ) from error

    def __call__(self, kernel: Kernel) -> bool:
        parts = kernel.path.split("/")[:-1]
        return any(self._regex.search(mark.join(parts)) for mark in "./")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.expression == other.expression

    def __hash__(self) -> int:
        return hash(self.expression)

    def __repr__(self) -> str:
        return f"NameHas({self.expression!r})"


def _as_list(names):
    # A string is refused later; its characters would be names that match anything.
    return names if isinstance(names, str) else list(names or ())


def _list_of_dicts(configs):
    are_dicts = isinstance(configs, Sequence) and all(
        isinstance(local, Mapping) for local in configs
    )
    if not are_dicts:
        raise ValueError(
            f"`pruning_configs` must be a list of dicts. Received: {configs!r}"
        )
    return [dict(local) for local in configs]


def _config_of(keys):
    """Returns the `PruningConfig` of a dict of Intel's keys, without local configs."""
    keys = dict(keys)
    for name in _LISTS:
        if isinstance(keys.get(name), str):
            raise ValueError(
                f"`{name}` must be a list of strings. Received: {keys[name]!r}"
            )
    names = keys.pop("op_names") or None
    included = None if names is None else tuple(map(NameHas, names))
    excluded = tuple(map(NameHas, keys.pop("excluded_op_names") or ()))
    if keys["pruning_type"] == SPARSE_GPT:
        # The method is chosen by `prepare_pruning`.
        keys["pruning_type"] = "basic"
    try:
        config = PruningConfig(**keys, include=included, exclude=excluded)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(_in_words_of_intel(str(error))) from error
    criterion = config.criterion
    if criterion is not None and criterion.needs_gradients and config.begin_step == 0:
        last = max(1, config.end_step)
        config = dataclasses.replace(config, begin_step=1, end_step=last)
    return config


def _in_words_of_intel(text):
    """Returns a message about a config with the names of Intel's keys.

    Example:

    >>> _in_words_of_intel("`frequency` must be >= 1. Received: frequency=0")
    '`pruning_frequency` must be >= 1. Received: pruning_frequency=0'
    """
    for key, name in KEY_ALIASES.items():
        text = re.sub(rf"(?<=`){name}(?=`)|\b{name}(?==)", key, text)
    return text
