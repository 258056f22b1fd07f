"""Runs the command line."""

from keras_pruner.cli import run

if __name__ == "__main__":
    run()
