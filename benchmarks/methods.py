"""The methods that are compared, by name, and how each is run.

All train with the same optimizer and learning rate. With E the task's epochs:

- `dense`: E epochs from the seed's initial weights; the start of many others.
- From dense weights: E more epochs while pruning.
- From initial weights (sparse from scratch, pruned at initialisation, or rewound): 2 E
  epochs. So every method has seen as many steps, 2 E epochs, as `dense_longer` has.
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
    """

    run: Callable
    start: str
    is_dense: bool = False


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
            criterion=criterion,
            target_sparsity=sparsity,
            verbose=False,
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

METHODS = {
    "dense": dense(1),
    "dense_longer": dense(2),
    "random": from_dense(criterion=_random, allocation="erk"),
    "magnitude_uniform": from_dense(allocation="uniform"),
    "magnitude_erk": from_dense(allocation="erk"),
    "magnitude_global": from_dense(allocation="global"),
    "magnitude_global_l2": from_dense(allocation="global_l2"),
    "head_kept": head_kept(allocation="erk"),
    "lamp": from_dense(criterion="lamp", allocation="global"),
    "gradient": from_dense(criterion="gradient", allocation="erk"),
    "snip": from_dense(criterion="snip", allocation="erk"),
    "snip_momentum": from_dense(criterion="snip_momentum", allocation="erk"),
    "taylor": from_dense(criterion="taylor", allocation="erk"),
    "fisher": from_dense(criterion="fisher", allocation="erk"),
    "movement": from_dense(criterion="movement", allocation="erk"),
    "ste": from_scratch(pruning_type="ste"),
    "str": from_scratch(pruning_type="str"),
    "set": from_scratch(pruning_type="set", pruner_options=_seed_option),
    "rigl": from_scratch(pruning_type="rigl"),
    "top_kast": from_scratch(pruning_type="top_kast"),
    "acdc": from_scratch(pruning_type="acdc", **_OPEN_STEPS),
    "lottery_ticket": from_scratch(pruning_type="lottery_ticket", **_OPEN_STEPS),
    "snip_at_init": at_init("snip"),
    "grasp_at_init": at_init("grasp"),
    "synflow_at_init": at_init("synflow"),
}
