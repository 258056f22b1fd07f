"""Defines what a config asks of the pruner that it names."""

from collections.abc import Mapping
from typing import Any

from keras_pruner.checks import did_you_mean, shown
from keras_pruner.components import CRITERIA
from keras_pruner.registry import Named, Registry

# Up to this target, magnitude is as accurate as any criterion. Above it, second moments
# are better, and a schedule that leaves most steps to the last weights
# (docs/accuracy.md).
_HIGHEST_EASY_TARGET = 0.8
_SCHEDULE_OF_HIGH_TARGETS = {"name": "exp", "config": {"power": 2.0}}


class PrunerType(Named):
    """Holds the defaults and the checks of a pruner's settings.

    A `PruningConfig` asks them of the class that its `pruning_type` names. Every pruner
    extends it.
    """

    # Set by `Registry.register`.
    name = None
    # Defaults of an open `criterion`, `schedule` or `allocation`. With `None` the
    # criterion follows the target, and chooses the allocation. The schedule is the
    # criterion's, or follows the target.
    default_criterion: str | None = None
    default_schedule: str | None = None
    default_allocation: str | None = None
    # Options that `pruner_options` may set, with their defaults.
    default_options: dict[str, Any] = {}  # noqa: RUF012
    # Whether it can keep the zeros of a checkpoint, as a config may ask.
    keeps_zeros = True
    # Whether it takes patterns with a kernel in several units; see `Pattern.overlaps`.
    takes_overlaps = False

    @classmethod
    def complete(cls, config: Any) -> tuple[Any, dict[str, Any]]:
        """Fills in the fields that a config leaves to the pruner.

        Args:
            config: `PruningConfig`.

        Returns:
            Tuple of the complete `PruningConfig` and the dict of options.

        Raises:
            ValueError: If an option is unknown, or the config does not fit the pruner.
        """
        config = config.completed(
            cls.criterion_for(config),
            cls.schedule_for(config),
            cls.allocation_for(config),
        )
        for name in config.pruner_options:
            if name not in cls.default_options:
                known = ", ".join(cls.default_options) or "none"
                raise ValueError(
                    f"`pruner_options`: Unknown option {shown(name)} of pruner "
                    f"'{cls.name or cls.__name__}'."
                    f"{did_you_mean(name, cls.default_options)} Its options: {known}."
                )
        if config.resume_from_pruned_checkpoint and not cls.keeps_zeros:
            raise ValueError(
                f"Pruner '{cls.name}' lets pruned weights return, so it cannot keep "
                "the zeros of a checkpoint. Leave out "
                "`resume_from_pruned_checkpoint`, or use pruning_type 'basic' or "
                "'pattern_lock'."
            )
        if config.pattern.overlaps and not cls.takes_overlaps:
            raise ValueError(
                f"Pruner '{cls.name or cls.__name__}' does not take pattern "
                f"'{config.pattern}', whose groups share weights. Use pruning_type "
                "'basic' or 'lottery_ticket', or another pattern."
            )
        options = cls.default_options | config.pruner_options
        cls.check(config, options)
        return config, options

    @classmethod
    def criterion_for(cls, config: Any) -> str:
        """Returns the name of the criterion for a config that leaves it open.

        By default it is `"magnitude"` up to a target of 80 %, and for whole channels
        and heads. For others it is `"second_moment"`, which is more accurate there
        (docs/accuracy.md). Neither needs memory.
        """
        if cls.default_criterion is not None:
            return cls.default_criterion
        is_high = config.target_sparsity > _HIGHEST_EASY_TARGET
        if is_high and not config.pattern.prunes_channels:
            return "second_moment"
        return "magnitude"

    @classmethod
    def schedule_for(cls, config: Any) -> Any:
        """Returns the schedule for a config that leaves it open.

        By default it is that of the criterion, or `"polynomial"` up to a target of
        80 %. Above, it is `"exp"` of power 2, which comes near the target sooner and
        takes the last weights slowly. It is more accurate there (docs/accuracy.md).

        Returns:
            Identifier in `SCHEDULES`.
        """
        if cls.default_schedule is not None:
            return cls.default_schedule
        criterion = CRITERIA.get(config.criterion, cls.criterion_for(config))
        if criterion.default_schedule is not None:
            return criterion.default_schedule
        if config.target_sparsity > _HIGHEST_EASY_TARGET:
            return _SCHEDULE_OF_HIGH_TARGETS
        return "polynomial"

    @classmethod
    def allocation_for(cls, config: Any) -> str | None:
        """Returns the name of the allocation for a config that leaves it open.

        `None` leaves it to the criterion.
        """
        return cls.default_allocation

    @classmethod
    def check(cls, config: Any, options: Mapping[str, Any]) -> None:
        """Raises an error if the pruner cannot work with a config.

        Args:
            config: Complete `PruningConfig`.
            options: Dict of all options.
        """


PRUNERS = Registry("pruner", PrunerType)


register_pruner = PRUNERS.register
