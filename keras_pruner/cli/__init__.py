"""The command line. Nothing here imports Keras before a command runs."""

from keras_pruner.cli.main import COMMANDS, main, run

__all__ = ["COMMANDS", "main", "run"]
