"""Train, prune, strip, save and reload a ConvNet on real digits."""

from keras_pruner.cli import arguments, files


def add_arguments(parser):
    parser.add_argument(
        "--target-sparsity", type=arguments.share, default=0.9, help="share of zeros"
    )
    parser.add_argument(
        "--epochs",
        type=arguments.positive,
        default=15,
        help="epochs before pruning, and while",
    )
    parser.add_argument("--seed", type=int, default=0)


def run(options):
    files.start_keras()
    from keras_pruner.demo import run_demo

    run_demo(options.target_sparsity, options.epochs, options.seed)
