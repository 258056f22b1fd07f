"""The command line: `python -m keras_pruner demo`."""

import argparse
import sys

from keras_pruner.demo import run_demo


def main(arguments=None):
    """Runs a command and returns its exit status.

    Args:
        arguments: List of strings; the process's own by default.
    """
    parser = argparse.ArgumentParser(
        prog="python -m keras_pruner", description="Pruning for Keras 3."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo", help="train, prune, strip, save and reload a ConvNet on real digits"
    )
    demo.add_argument(
        "--target-sparsity",
        type=float,
        default=0.9,
        help="fraction of zeros",
    )
    demo.add_argument(
        "--epochs",
        type=int,
        default=15,
        help="epochs before pruning, and while",
    )
    demo.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        run_demo(options.target_sparsity, options.epochs, options.seed)
    except (ImportError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
