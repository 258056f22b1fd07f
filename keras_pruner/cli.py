"""The command line: `python -m keras_pruner demo`."""

import argparse
import sys


def main(arguments=None):
    """Runs a command and returns its exit status.

    Args:
        arguments: List of strings; the process's own by default.
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
    # Imported here, so that `--help` needs no backend.
    from keras_pruner.demo import run_demo

    run_demo(options.target_sparsity, options.epochs, options.seed)


# Name of a command -> what adds its arguments, what runs it, and what it does.
COMMANDS = {
    "demo": (
        _add_demo_arguments,
        _run_demo,
        "train, prune, strip, save and reload a ConvNet on real digits",
    ),
}
