"""The methods that are compared, by name, and how each is run.

All train with the same optimizer and learning rate. With E the task's epochs:

- `dense`: E epochs from the seed's initial weights; the start of many others.
- From dense weights: E more epochs while pruning.
- From initial weights (sparse from scratch, pruned at initialisation, or rewound): 2 E
  epochs. So every method has seen as many steps, 2 E epochs, as `dense_longer` has.

Methods are compared within their family: what single weights, blocks, n:m, channels and
heads lose at one sparsity is not the same. A sparsity is that of all kernels where
single weights are pruned, and of the kernels that take the pattern elsewhere.
"""

import dataclasses
from collections.abc import Callable

import keras_pruner


@dataclasses.dataclass(frozen=True)
class Method:
    """A method of the comparison.

    Args:
        run: Function from `(problem, seed, sparsity)` to a `Result`, or to `None` if
            the method cannot reach the sparsity on this model.
        start: Weights it starts from: `"dense"` or `"initial"`.
        is_dense: Whether it prunes nothing.
        family: What it prunes; one table shows one family.
        sparsities: Those it is run at, or `None` for those of the command line.
        tasks: Names of the tasks that it is run on, or `None` for all.
    """

    run: Callable
    start: str
    is_dense: bool = False
    family: str = "single weights"
    sparsities: tuple | None = None
    tasks: tuple | None = None


def from_dense(**settings):
    """Prunes the dense model while training it as long again.

    Args:
        **settings: Of `PruningCallback`. A function there gets the seed.
    """

    def run(problem, seed, sparsity):
        model = problem.dense_model(seed)
        return problem.prune(
            model, seed, sparsity, epochs=problem.epochs, **_of_seed(settings, seed)
        )

    return Method(run, "dense")


def from_scratch(**settings):
    """Trains with pruning from the initial weights on, for all of the steps.

    Args:
        **settings: Of `PruningCallback`. A function there gets the seed.
    """

    def run(problem, seed, sparsity):
        model = problem.initial_model(seed)
        epochs = 2 * problem.epochs
        return problem.prune(
            model, seed, sparsity, epochs=epochs, **_of_seed(settings, seed)
        )

    return Method(run, "initial")


def _of_seed(settings, seed):
    return {
        key: value(seed) if callable(value) else value
        for key, value in settings.items()
    }


def at_init(criterion, num_examples=512):
    """Prunes the initial weights by a few examples, then trains what is left."""

    def run(problem, seed, sparsity):
        data = problem.x_train[:num_examples], problem.y_train[:num_examples]
        model = keras_pruner.prune_at_init(
            problem.initial_model(seed),
            data,
            target_sparsity=sparsity,
            verbose=False,
            **_of_seed({"criterion": criterion}, seed),
        )
        return problem.prune(
            problem.compile(model),
            seed,
            sparsity,
            epochs=2 * problem.epochs,
            pruning_type="pattern_lock",
        )

    return Method(run, "initial")


def head_kept(**settings):
    """Leaves the last kernel dense, and prunes the others so much the more."""

    def run(problem, seed, sparsity):
        head = problem.kernels[-1]
        rest = problem.num_weights - head.layout.size
        target = sparsity * problem.num_weights / rest
        if target >= 1:
            return None
        model = problem.dense_model(seed)
        return problem.prune(
            model,
            seed,
            sparsity,
            epochs=problem.epochs,
            target_sparsity=target,
            exclude=[model.layers[-1]],
            **settings,
        )

    return Method(run, "dense")


def dense(num_phases):
    """Trains without pruning, for some times E epochs."""

    def run(problem, seed, sparsity):
        model = problem.dense_model(seed)
        if num_phases > 1:
            problem.fit(model, seed, (num_phases - 1) * problem.epochs)
        sizes = [weight.size for weight in model.get_weights()]
        return problem.result(problem.accuracy(model), sizes)

    return Method(run, "initial", is_dense=True)


def _random(seed):
    return {"name": "random", "config": {"seed": seed}}


def _seed_option(seed):
    return {"seed": seed}


# Methods whose own pace of updates matters choose their steps themselves.
_OPEN_STEPS = {"begin_step": None, "end_step": None, "frequency": None}
_RANDOM = {"criterion": _random}
_MAGNITUDE = {"criterion": "magnitude"}


def _family(family, pattern, methods, *, sparsities, tasks=None, **common):
    """Returns the methods of one pattern, by `name/pattern`.

    Args:
        family: Heading of their table.
        pattern: Pattern that all prune by.
        methods: Dict from a name to settings of `PruningCallback`.
        sparsities: Those that the family is run at.
        tasks: Names of the tasks that it is run on, or `None` for all.
        **common: Further settings of them all.
    """
    made = {}
    for name, settings in methods.items():
        start = from_scratch if name in _FROM_SCRATCH else from_dense
        made[f"{name}/{pattern}"] = dataclasses.replace(
            start(pattern=pattern, **(common | settings)),
            family=family,
            sparsities=sparsities,
            tasks=tasks,
        )
    return made


_FROM_SCRATCH = ("ste", "sr_ste", "rigl")
_GROUPS = {
    "random": _RANDOM,
    "magnitude": _MAGNITUDE,
    "second_moment": {"criterion": "second_moment"},
    "taylor": {"criterion": "taylor"},
    "block_mask": {"pruning_type": "block_mask"},
    "progressive": {"pruning_type": "progressive"},
    "group_lasso": {
        "regularizer": "group_lasso",
        "regularizer_strength": 0.1,
        **_MAGNITUDE,
    },
    "growing_l2": {
        "regularizer": "growing_l2",
        "regularizer_strength": 1.0,
        **_MAGNITUDE,
    },
}
_RETRAIN_FREE = {"pruning_type": "retrain_free", **_OPEN_STEPS}

_DAMPED = {"name": "second_moment", "config": {"damping": 1.0}}
_SOFT_MOVEMENT = {"name": "movement", "config": {"soft": True}}

METHODS = {
    "dense": dense(1),
    "dense_longer": dense(2),
    "random": from_dense(criterion=_random, allocation="erk"),
    "default": from_dense(),
    "default_polynomial": from_dense(schedule="polynomial"),
    "magnitude_uniform": from_dense(**_MAGNITUDE, allocation="uniform"),
    "magnitude_erk": from_dense(**_MAGNITUDE, allocation="erk"),
    "magnitude_global": from_dense(**_MAGNITUDE, allocation="global"),
    "magnitude_global_l2": from_dense(**_MAGNITUDE, allocation="global_l2"),
    "head_kept": head_kept(**_MAGNITUDE, allocation="erk"),
    "lamp": from_dense(criterion="lamp", allocation="global"),
    "gradient": from_dense(criterion="gradient", allocation="erk"),
    "snip": from_dense(criterion="snip"),
    "snip_momentum": from_dense(criterion="snip_momentum"),
    "snip_momentum_erk": from_dense(criterion="snip_momentum", allocation="erk"),
    "taylor": from_dense(criterion="taylor"),
    "taylor_erk": from_dense(criterion="taylor", allocation="erk"),
    "fisher": from_dense(criterion="fisher"),
    "fisher_erk": from_dense(criterion="fisher", allocation="erk"),
    "second_moment": from_dense(criterion="second_moment"),
    "second_moment_damped": from_dense(criterion=_DAMPED),
    "movement": from_dense(criterion="movement"),
    "movement_soft": from_dense(criterion=_SOFT_MOVEMENT),
    "ste": from_scratch(pruning_type="ste"),
    "ste_from_dense": from_dense(pruning_type="ste"),
    "st3": from_scratch(pruning_type="st3"),
    "st3_from_dense": from_dense(pruning_type="st3"),
    "feather": from_scratch(pruning_type="feather"),
    "feather_from_dense": from_dense(pruning_type="feather"),
    "str": from_scratch(pruning_type="str"),
    "set": from_scratch(pruning_type="set", pruner_options=_seed_option),
    "rigl": from_scratch(pruning_type="rigl"),
    "top_kast": from_scratch(pruning_type="top_kast"),
    "top_kast_from_dense": from_dense(pruning_type="top_kast"),
    "acdc": from_scratch(pruning_type="acdc", **_OPEN_STEPS),
    "acdc_from_dense": from_dense(pruning_type="acdc", **_OPEN_STEPS),
    "lottery_ticket": from_scratch(pruning_type="lottery_ticket", **_OPEN_STEPS),
    "random_at_init": at_init(_random),
    "snip_at_init": at_init("snip"),
    "grasp_at_init": at_init("grasp"),
    "synflow_at_init": at_init("synflow"),
    **_family(
        "blocks of 4 inputs (1x4)",
        "1x4",
        _GROUPS | {"rigl": {"pruning_type": "rigl"}},
        sparsities=(0.8, 0.9, 0.95),
    ),
    **_family(
        "2 of 4 inputs (2:4)",
        "2:4",
        {
            "random": _RANDOM,
            "magnitude": _MAGNITUDE,
            "snip_momentum": {"criterion": "snip_momentum"},
            "ste": {"pruning_type": "ste"},
            "sr_ste": {"pruning_type": "sr_ste"},
        },
        sparsities=(0.5,),
    ),
    **_family(
        "outputs of all kernels but the head (1xchannel)",
        "1xchannel",
        _GROUPS | {"retrain_free": _RETRAIN_FREE},
        sparsities=(0.5, 0.75),
        exclude=["head/kernel"],
    ),
    **_family(
        "attention heads (mha)",
        "mha",
        {
            "random": _RANDOM,
            "magnitude": _MAGNITUDE,
            "taylor": {"criterion": "taylor"},
            "retrain_free": _RETRAIN_FREE,
        },
        sparsities=(0.5, 0.75),
        tasks=("names",),
    ),
}
