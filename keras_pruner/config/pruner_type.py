"""Defines what a config asks of the pruner that it names."""

from keras_pruner.checks import did_you_mean, shown
from keras_pruner.registry import Registry


class PrunerType:
    """Holds the defaults and the checks of a pruner's settings.

    A `PruningConfig` asks them of the class that its `pruning_type` names. Every pruner
    extends it.
    """

    # Set by `Registry.register`.
    name = None
    # Defaults of an open `criterion`, `schedule` or `allocation`; `None` leaves the
    # allocation to the criterion.
    default_criterion = "magnitude"
    default_schedule = "polynomial"
    default_allocation = None
    # Options that `pruner_options` may set, with their defaults.
    default_options = {}  # noqa: RUF012
    # Whether it can keep the zeros of a checkpoint, as a config may ask.
    keeps_zeros = True

    @classmethod
    def complete(cls, config):
        """Fills in the fields that a config leaves to the pruner.

        Args:
            config: `PruningConfig`.

        Returns:
            Tuple of the complete `PruningConfig` and the dict of options.

        Raises:
            ValueError: If an option is unknown, or the config does not fit the pruner.
        """
        config = config.completed(
            cls.default_criterion, cls.default_schedule, cls.default_allocation
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
        options = cls.default_options | config.pruner_options
        cls.check(config, options)
        return config, options

    @classmethod
    def check(cls, config, options):
        """Raises an error if the pruner cannot work with a config.

        Args:
            config: Complete `PruningConfig`.
            options: Dict of all options.
        """


PRUNERS = Registry("pruner", PrunerType)


register_pruner = PRUNERS.register
