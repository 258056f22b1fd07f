"""Pruning for Keras 3: sparse models that keep their accuracy.

`PruningCallback` prunes in `model.fit`, `PrunedLayer` and `wrap` prune single layers,
`strip` returns a plain model, `report` lists the pruned and the skipped kernels.
"""

import importlib
import importlib.util
import pathlib
import sys
from typing import TYPE_CHECKING

from keras_pruner.version import __version__ as __version__


def _is_command():
    """Whether this process runs the command line, whose `--help` needs no Keras."""
    program = sys.argv[0] if getattr(sys, "argv", None) else ""
    if program == "-m":
        # Python looks for the module of `python -m`.
        return any(text.endswith("keras_pruner") for text in sys.orig_argv)
    return pathlib.Path(program).stem in ("keras-pruner", "keras-pruner-script")


# Type checkers see all names.
if TYPE_CHECKING or not _is_command():
    # At once, because Keras finds the registered layers of a file by their names only.
    from keras_pruner import api
    from keras_pruner.api import *  # noqa: F403

    __all__ = []
    __all__ += api.__all__

else:

    def __getattr__(name):
        """Imports all public names when one of them is used first."""
        is_module = importlib.util.find_spec(f"{__name__}.{name}") is not None
        if is_module or (name.startswith("__") and name != "__all__"):
            raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
        return getattr(importlib.import_module("keras_pruner.api"), name)
