"""The schedules of tfmot: at which steps to prune, and to which sparsity."""

import abc
import numbers
from typing import Any, Self

from keras import ops

from keras_pruner.components import Polynomial

_CONFIG_KEYS = {"class_name", "config"}


class PruningSchedule(abc.ABC):
    """Says for each step whether masks are updated, and to which sparsity.

    Extend it for a schedule of your own, with `__call__` and `get_config`. During
    training it is called with the number of optimizer updates so far, a Python integer.

    Example:

    >>> class EveryTenth(PruningSchedule):
    ...     def __call__(self, step):
    ...         return step % 10 == 0, min(0.9, 0.01 * step)
    ...     def get_config(self):
    ...         return {"class_name": "EveryTenth", "config": {}}
    >>> EveryTenth()(20), EveryTenth()(21)
    ((True, 0.2), (False, 0.21))
    """

    def _should_prune_in_step(self, step, begin_step, end_step, frequency):
        """Returns whether a step is one of `begin_step, begin_step + frequency, ...`.

        Args:
            step: Integer, or a variable or tensor that holds one.
            begin_step: First step with an update.
            end_step: Last possible step with an update; negative for no end.
            frequency: Steps between two updates.
        """
        is_on_grid = (step - begin_step) % frequency == 0
        has_begun, has_not_ended = step >= begin_step, end_step < 0 or step <= end_step
        if isinstance(step, numbers.Integral):
            return has_begun and has_not_ended and is_on_grid
        return ops.logical_and(ops.logical_and(has_begun, has_not_ended), is_on_grid)

    def _validate_step(self, begin_step, end_step, frequency, allow_negative_1):
        steps = dict(begin_step=begin_step, end_step=end_step, frequency=frequency)
        for name, value in steps.items():
            _check_number(value, name)
        if begin_step < 0:
            raise ValueError(f"`begin_step` must be >= 0. Received: {begin_step}")
        if end_step == -1 and not allow_negative_1:
            raise ValueError(
                f"`end_step` of {type(self).__name__} cannot be -1, because the "
                "sparsity needs a step at which it is final."
            )
        if end_step != -1 and end_step < 0:
            raise ValueError(f"`end_step` must be -1 or >= 0. Received: {end_step}")
        if end_step != -1 and end_step < begin_step:
            raise ValueError(
                "`begin_step` must be <= `end_step`. Received: "
                f"begin_step={begin_step}, end_step={end_step}"
            )
        if frequency <= 0:
            raise ValueError(f"`frequency` must be > 0. Received: {frequency}")

    def _validate_sparsity(self, sparsity, variable_name):
        _check_number(sparsity, variable_name)
        if not 0.0 <= sparsity < 1.0:
            raise ValueError(
                f"`{variable_name}` must be in [0, 1). Received: {sparsity}"
            )

    @abc.abstractmethod
    def __call__(self, step: Any) -> tuple[Any, Any]:
        """Returns a bool, whether masks are updated, and the sparsity in [0, 1).

        Args:
            step: Number of the step.
        """

    @abc.abstractmethod
    def get_config(self) -> dict[str, Any]:
        """Returns a dict of `"class_name"`, and `"config"`: the arguments."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Creates a schedule from its config, or from the arguments in it."""
        arguments = config["config"] if config.keys() == _CONFIG_KEYS else config
        return cls(**arguments)

    def _config_of(self, *names):
        arguments = {name: getattr(self, name) for name in names}
        return {"class_name": type(self).__name__, "config": arguments}


def _check_number(value, name):
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        kind = type(value).__name__
        raise ValueError(
            f"`{name}` must be a number. Received: {value!r} of type {kind}"
        )


class ConstantSparsity(PruningSchedule):
    """Prunes to the same sparsity at every update.

    Args:
        target_sparsity: Float in [0, 1).
        begin_step: Step of the first update.
        end_step: Step after which masks stay; -1 updates them until training ends.
        frequency: Steps between two updates.

    Example:

    >>> schedule = ConstantSparsity(0.5, begin_step=10, frequency=5)
    >>> [schedule(step) for step in (9, 10, 15)]
    [(False, 0.5), (True, 0.5), (True, 0.5)]
    """

    def __init__(
        self,
        target_sparsity: float,
        begin_step: int,
        end_step: int = -1,
        frequency: int = 100,
    ) -> None:
        self.target_sparsity = target_sparsity
        self.begin_step = begin_step
        self.end_step = end_step
        self.frequency = frequency
        self._validate_step(begin_step, end_step, frequency, True)
        self._validate_sparsity(target_sparsity, "target_sparsity")

    def __call__(self, step: Any) -> tuple[Any, Any]:
        is_due = self._should_prune_in_step(
            step, self.begin_step, self.end_step, self.frequency
        )
        return is_due, self.target_sparsity

    def get_config(self) -> dict[str, Any]:
        return self._config_of("target_sparsity", "begin_step", "end_step", "frequency")


class PolynomialDecay(PruningSchedule):
    """Raises the sparsity fast at first, then slowly.

    `s = final + (initial - final) * (1 - (step - begin) / (end - begin))^power`

    Args:
        initial_sparsity: Sparsity at `begin_step`, in [0, 1).
        final_sparsity: Sparsity at `end_step`, in [0, 1).
        begin_step: Step of the first update.
        end_step: Step after which masks stay.
        power: Positive exponent.
        frequency: Steps between two updates.

    References:
        [To prune, or not to prune, Zhu & Gupta, 2017](https://arxiv.org/abs/1710.01878)

    Example:

    >>> schedule = PolynomialDecay(0.2, 0.8, begin_step=100, end_step=110, frequency=2)
    >>> [(step, schedule(step)[0], round(schedule(step)[1], 4)) for step in (102, 105)]
    [(102, True, 0.4928), (105, False, 0.725)]
    """

    def __init__(
        self,
        initial_sparsity: float,
        final_sparsity: float,
        begin_step: int,
        end_step: int,
        power: float = 3,
        frequency: int = 100,
    ) -> None:
        self.initial_sparsity = initial_sparsity
        self.final_sparsity = final_sparsity
        self.power = power
        self.begin_step = begin_step
        self.end_step = end_step
        self.frequency = frequency
        self._validate_step(begin_step, end_step, frequency, False)
        self._validate_sparsity(initial_sparsity, "initial_sparsity")
        self._validate_sparsity(final_sparsity, "final_sparsity")
        self._curve = Polynomial(power)

    def __call__(self, step: Any) -> tuple[Any, Any]:
        is_due = self._should_prune_in_step(
            step, self.begin_step, self.end_step, self.frequency
        )
        passed, length = step - self.begin_step, max(1, self.end_step - self.begin_step)
        if isinstance(step, numbers.Integral):
            progress = min(1, max(0, passed / length))
        else:
            progress = ops.clip(ops.cast(passed, "float32") / length, 0, 1)
        bounds = self.initial_sparsity, self.final_sparsity
        return is_due, self._curve.sparsity(progress, *bounds)

    def get_config(self) -> dict[str, Any]:
        return self._config_of(
            "initial_sparsity",
            "final_sparsity",
            "power",
            "begin_step",
            "end_step",
            "frequency",
        )
