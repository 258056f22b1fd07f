"""Runs the command line."""

import sys

from keras_pruner.cli import main

if __name__ == "__main__":
    sys.exit(main())
