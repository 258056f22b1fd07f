"""Runs commands such as `python -m keras_pruner demo`."""

import argparse
import sys


def main(arguments=None):
    """Runs a command and returns its exit status.

    Args:
        arguments: List of strings. The default is the process's own arguments.
    """
    parser = argparse.ArgumentParser(
        prog="python -m keras_pruner", description="Pruning for Keras 3."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (add_arguments, run, words) in COMMANDS.items():
        command = commands.add_parser(name, help=words)
        add_arguments(command)
        command.set_defaults(run=run)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (ImportError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _add_demo_arguments(parser):
    parser.add_argument(
        "--target-sparsity", type=float, default=0.9, help="fraction of zeros"
    )
    parser.add_argument(
        "--epochs", type=int, default=15, help="epochs before pruning, and while"
    )
    parser.add_argument("--seed", type=int, default=0)


def _run_demo(options):
    # The import is here, so that `--help` needs no backend.
    from keras_pruner.demo import run_demo

    run_demo(options.target_sparsity, options.epochs, options.seed)


# Name of a command -> function that adds its arguments, function that runs it, help.
COMMANDS = {
    "demo": (
        _add_demo_arguments,
        _run_demo,
        "train, prune, strip, save and reload a ConvNet on real digits",
    ),
}
