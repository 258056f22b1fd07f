"""Defines what engines make of zeros: the base class, the result, the registry."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from keras_pruner.checks import check_choice, check_in_range
from keras_pruner.components.capabilities.hardware import as_hardware, missing
from keras_pruner.components.patterns import PATTERNS
from keras_pruner.components.patterns.base import Pattern
from keras_pruner.kernels import Kernel
from keras_pruner.registry import Component, Registry

REWARDS = ("nothing", "size", "time", "size and time")
DTYPES = ("float32", "int8")


@dataclasses.dataclass(frozen=True)
class Capability:
    """Says what zeros of one pattern bring on one engine.

    Args:
        engine: Name of the engine.
        pattern: Name of the pattern.
        rewards: What gets smaller or shorter: `"nothing"`, `"size"` (bytes of the
            file), `"time"` (of a call), or `"size and time"`.
        reason: One sentence that says why.
        settings: Dict of the settings of a `PruningConfig` that the engine rewards
            most. It is empty if no zeros make the engine faster or its files smaller.
        layer_types: Names of the layer classes that gain, or `None` for all.
        min_sparsity: Share of zeros from which calls get shorter.
        needs: Tuple of the hardware features without which nothing is gained; see
            `hardware_here`.
        missing: Tuple of those of `needs` that the hardware lacks.
    """

    engine: str
    pattern: str
    rewards: str
    reason: str
    settings: dict = dataclasses.field(default_factory=dict, hash=False)
    layer_types: tuple | None = None
    min_sparsity: float = 0.0
    needs: tuple = ()
    missing: tuple = ()

    def __str__(self) -> str:
        return f"{self.engine}, pattern '{self.pattern}': {self.rewards}. {self.reason}"


class EngineCapability(Component):
    """Says what an engine makes of zeros.

    Subclasses define `judge`; the class attributes say more. `litert.py` is an example.

    Attributes:
        title: Name of the engine in sentences.
        settings: Dict of the settings of a `PruningConfig` that it rewards most, with
            a `"pattern"`; empty if it rewards no zeros.
        dtype: How the engine must store the kernels, `"float32"` or `"int8"`, so that
            these settings gain what `judge` says.
        layer_types: Names of the layer classes, of Keras and of torch, whose kernels
            gain with these settings, or `None` for all.
        axes_multiple_of: Number that must divide the inputs and the outputs of a
            kernel's matrix so that it gains.
        min_sparsity: Share of zeros from which calls for one sample get shorter.
        needs: Hardware features that the gain needs; see `hardware_here`.
        advice: Sentence for those who ask for the best settings of an engine that has
            none.
    """

    title: str | None = None
    settings: dict[str, Any] = {}  # noqa: RUF012
    dtype = "float32"
    layer_types: tuple[str, ...] | None = None
    axes_multiple_of = 1
    min_sparsity = 0.0
    needs: tuple[str, ...] = ()
    advice = (
        "Remove whole channels, units or heads: `prune_structured`, or "
        '`pattern="channel_groups"` and `shrink` after training.'
    )

    def judge(
        self, pattern: Pattern, layer_types: tuple[str, ...] | None, dtype: str
    ) -> tuple[str, str]:
        """Returns what zeros bring where the hardware has all that the engine needs.

        Args:
            pattern: `Pattern`, never one of whole channels or heads.
            layer_types: Tuple of names of layer classes, or `None` for those that gain.
            dtype: `"float32"` or `"int8"`: how the engine stores the kernels.

        Returns:
            Tuple of a reward, one of `REWARDS`, and of a sentence that says why.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `judge`.")

    def refuses(self, kernel: Kernel) -> str | None:
        """Returns why a `Kernel` gains less than the settings promise, or `None`."""
        cls, types = type(kernel.layer), self.layer_types
        if types is not None and not {own.__name__ for own in cls.__mro__} & set(types):
            return (
                f"{self.title} gains nothing in time from zeros of a {cls.__name__}, "
                f"only from {', '.join(types)}"
            )
        sizes = kernel.layout.rows, kernel.layout.outputs
        if any(size % self.axes_multiple_of for size in sizes):
            return (
                f"{self.title} gains nothing in time from zeros of matrices whose axes "
                f"are no multiples of {self.axes_multiple_of}, and the kernel has "
                f"{sizes[0]} inputs and {sizes[1]} outputs"
            )
        return None

    def refusal(self, kernel: Kernel, pattern: Pattern) -> str | None:
        """Returns why a `Kernel` stays dense under a pattern, or `None`."""
        return None if pattern.prunes_channels else self.refuses(kernel)

    def choose_pattern(
        self, given: str | Pattern | dict[str, Any] | None = None
    ) -> Pattern:
        """Returns the `Pattern` of a config for this engine.

        Args:
            given: Pattern that the user wants, or `None`.

        Raises:
            ValueError: If the engine rewards no zeros, or those of the given pattern
                less than others.
        """
        best = self.settings.get("pattern")
        pattern = PATTERNS.get(given, best or "1x1")
        if pattern.prunes_channels:
            return pattern
        rewards, reason = self.judge(pattern, None, self.dtype)
        if best is None:
            raise ValueError(f"{reason} {self.advice}")
        most, _ = self.judge(PATTERNS.get(best), None, self.dtype)
        if rewards != most:
            raise ValueError(
                f"Pattern '{pattern}' brings less than '{best}': {rewards}, not "
                f"{most}. {reason} Leave out `pattern`, or `for_engine`."
            )
        return pattern

    def capability(
        self,
        pattern: Pattern,
        sparsity: float | None,
        layer_types: tuple[str, ...] | None,
        hardware: Any,
        dtype: str,
    ) -> Capability:
        """Returns the `Capability`; see `capability_of`."""
        lacking, least = (), 0.0
        if pattern.prunes_channels:
            rewards, reason = "size and time", _AFTER_SHRINK
        else:
            rewards, reason = self.judge(pattern, layer_types, dtype)
        if "time" in rewards and not pattern.prunes_channels:
            lacking, least = missing(self.needs, hardware), self.min_sparsity
            if lacking:
                rewards = "nothing"
                reason += f" The hardware has no {' and no '.join(lacking)}."
            elif sparsity is not None and round(sparsity, 2) < least:
                rewards = "size" if "size" in rewards else "nothing"
                reason += f" Below {least:.0%} zeros, calls take as long or longer."
        return Capability(
            engine=str(self.name),
            pattern=str(pattern),
            rewards=rewards,
            reason=reason,
            settings=dict(self.settings),
            layer_types=self.layer_types,
            min_sparsity=least,
            needs=self.needs,
            missing=lacking,
        )


_AFTER_SHRINK = (
    "`shrink` removes whole channels, units and heads that are zero, so the file is "
    "smaller and every engine computes less."
)

CAPABILITIES = Registry("engine", EngineCapability)
register_capability = CAPABILITIES.register


def capability_of(
    engine: str | EngineCapability | dict[str, Any],
    pattern: str | Pattern | dict[str, Any] | None = None,
    *,
    sparsity: float | None = None,
    layer_types: str | Iterable[str] | None = None,
    hardware: Iterable[str] | None = None,
    dtype: str = "float32",
) -> Capability:
    """Returns what zeros bring on an engine: smaller files, shorter calls, or nothing.

    The answers are documented or measured; `docs/engines.md` names the sources. They
    hold for the layers that gain. The size of the gain depends on the model, so measure
    it.

    Example:

    >>> capability_of("litert", "1x4").rewards
    'size and time'
    >>> capability_of("litert", "4x1").rewards
    'size'
    >>> capability_of("onnxruntime", "1x4").rewards
    'nothing'
    >>> capability_of("litert").settings
    {'pattern': '1x4'}

    Args:
        engine: Registered name, e.g. `"litert"`, or an `EngineCapability`.
        pattern: Name of a pattern or a `Pattern`; `None` for the one that the engine
            rewards most.
        sparsity: Share of zeros of the kernels, in [0, 1]; `None` for enough of them.
        layer_types: Name of a layer class, or several; `None` for those that gain.
        hardware: Features of the machine that runs the model: a collection of names as
            `hardware_here` returns. `None` for this machine.
        dtype: `"float32"` or `"int8"`: how the engine stores the kernels.

    Returns:
        `Capability`.

    Raises:
        ValueError: If a name is unknown; the message suggests the nearest one. Or if
            the sparsity is out of its range.
        TypeError: If an argument has another type.
    """
    engine = CAPABILITIES.get(engine)
    pattern = PATTERNS.get(pattern, engine.settings.get("pattern", "1x1"))
    check_choice(dtype, "`dtype`", DTYPES)
    if sparsity is not None:
        sparsity = check_in_range(sparsity, "`sparsity`", 0, 1)
    if isinstance(layer_types, str):
        layer_types = (layer_types,)
    layer_types = None if layer_types is None else tuple(layer_types)
    hardware = as_hardware(hardware)
    return engine.capability(pattern, sparsity, layer_types, hardware, dtype)
