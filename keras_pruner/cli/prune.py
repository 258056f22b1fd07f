"""Prune a trained model in one shot.

With samples of its inputs, the weights that stay make up for those that are lost.
Without samples the smallest weights are set to zero, which is less accurate. Nothing is
trained: `PruningCallback` prunes in training.
"""

import sys

from keras_pruner.cli import arguments, files


def add_arguments(parser):
    arguments.add_model(parser)
    arguments.add_output(parser)
    parser.add_argument(
        "--target-sparsity",
        type=arguments.share,
        required=True,
        help="share of the weights to set to zero, in [0, 1)",
    )
    arguments.add_data(parser)
    parser.add_argument("--method", help="default: admm; without data: magnitude")
    parser.add_argument("--pattern", help="default: 1x1, single weights")
    parser.add_argument(
        "--allocation", help="how the sparsity is divided over the kernels"
    )
    parser.add_argument(
        "--exclude",
        action="append",
        metavar="NAME",
        help="layer to keep dense, or a regular expression; may be given several times",
    )
    parser.add_argument(
        "--recovery", help="repair afterwards: distill or batch_normalization"
    )
    parser.add_argument("--num-samples", type=arguments.positive, default=512)
    parser.add_argument("--seed", type=int, default=0)
    arguments.add_loading(parser)
    arguments.add_printing(parser)


def run(options):
    arguments.check_files(options)
    if options.data is None:
        _check_needs_no_data(options)
    model = files.load_model(options.model, options)
    prune = _blindly if options.data is None else _by_samples
    with files.working("pruning"):
        pruned, found = prune(model, options)
    files.save_model(pruned, options)
    files.show(options, found)


def _check_needs_no_data(options):
    if options.method not in (None, "magnitude") or options.recovery is not None:
        name = "--method" if options.recovery is None else "--recovery"
        raise ValueError(
            f"`{name} {options.recovery or options.method}` needs samples of the "
            "model's inputs: `--data FILE.npy`. Without samples, only the method "
            "'magnitude' prunes."
        )


def _settings_of(options):
    names = ("target_sparsity", "pattern", "allocation", "exclude")
    settings = {name: getattr(options, name) for name in names}
    return {name: value for name, value in settings.items() if value is not None}


def _blindly(model, options):
    """Prunes by magnitude; returns the model and a `Report`."""
    from keras_pruner.oneshot import prune_at_init
    from keras_pruner.reporting import report

    print(
        "No `--data`: the smallest weights are pruned. Samples of the model's inputs "
        "give a more accurate model.",
        file=sys.stderr,
    )
    settings = {"criterion": "magnitude", **_settings_of(options)}
    pruned = prune_at_init(model, verbose=False, **settings)
    return pruned, report(pruned, settings)


def _by_samples(model, options):
    """Prunes in one shot; returns the model and an `OneShotReport`."""
    from keras_pruner.oneshot import prune_one_shot

    samples, _ = files.load_samples(options.data, model)
    return prune_one_shot(
        model,
        samples,
        method=options.method or "admm",
        num_samples=options.num_samples,
        recovery=options.recovery,
        seed=options.seed,
        verbose=False,
        **_settings_of(options),
    )
