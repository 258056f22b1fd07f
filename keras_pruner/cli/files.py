"""Loads models and samples, saves models, prints results."""

import contextlib
import importlib
import json
import os
import re
import sys
import zipfile

# Keras, NumPy and this package are imported where they are used.


def start_keras():
    """Imports Keras and all of this package, without what backends log at their start.

    Raises:
        ImportError: If Keras or its backend is not installed.
    """
    if "keras" not in sys.modules:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        with _without_errors_of_libraries():
            import keras

            # It starts the devices.
            keras.ops.zeros(())
    # Registers the layers of this package.
    importlib.import_module("keras_pruner.api")


@contextlib.contextmanager
def _without_errors_of_libraries():
    """Context in which nothing reaches the error stream, also from C++."""
    try:
        kept = os.dup(2)
    except OSError:
        # The process has no such stream.
        yield
        return
    try:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def load_model(path, options):
    """Loads a model.

    Args:
        path: Path of its file.
        options: Parsed arguments, with those of `add_loading`.

    Returns:
        Keras model.

    Raises:
        ValueError: If the file is no model, or needs custom objects.
        ImportError: If a module of `--import` is not found.
    """
    start_keras()
    _import_all(options.modules)
    import keras

    arguments = {"safe_mode": not options.trust}
    try:
        try:
            model = keras.saving.load_model(path, **arguments)
        except Exception:
            # Losses and metrics may be custom; most commands do not need them.
            model = keras.saving.load_model(path, compile=False, **arguments)
    except Exception as error:
        raise ValueError(f"'{path}' cannot be loaded. {_why(path, error)}") from error
    if not isinstance(model, keras.Model):
        raise ValueError(f"'{path}' holds a {type(model).__name__}, and no model.")
    return model


def _import_all(modules):
    # As `python -m` does: modules of the working folder.
    if modules and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ImportError(f"`--import {name}` fails: {error}") from error


def _why(path, error):
    """Returns what is wrong with a file, in a sentence."""
    text = " ".join(str(error).split())
    unknown = re.search(r"(?:Could not locate|Unknown) [a-z ]+:? '?([^' ]+)", text)
    if unknown:
        return (
            f"It needs '{unknown[1]}', which is not registered. Give the module that "
            "registers it by `@keras.saving.register_keras_serializable()`: "
            "`--import my_module`."
        )
    if "safe_mode" in text or "Lambda" in text:
        return (
            "It has a Lambda layer with code. `--trust` lets Keras run it; do so only "
            "with files from people that you trust."
        )
    if str(path).endswith(".keras") and not zipfile.is_zipfile(path):
        return "It is no .keras file, or it is damaged."
    return f"Keras says: {text[:300]}"


def load_samples(path, model):
    """Loads inputs of a model, and labels if the file has some.

    Args:
        path: Path of a `.npy` or `.npz` file.
        model: Keras model.

    Returns:
        Tuple of the inputs, nested as the model takes them, and of the labels or
        `None`.

    Raises:
        ValueError: If the file has other contents.
    """
    found = _arrays(path)
    if not isinstance(found, dict):
        return found, None
    labels = found.pop("y", None) if "x" in found or len(found) > 1 else None
    if len(found) == 1:
        return next(iter(found.values())), labels
    from keras_pruner.backend import inputs_structure_of

    structure = inputs_structure_of(model)
    if isinstance(structure, dict):
        missing = set(structure) - set(found)
        if missing:
            raise ValueError(
                f"'{path}' has the arrays {', '.join(found)}, but the model takes "
                f"{', '.join(structure)}."
            )
        return {name: found[name] for name in structure}, labels
    return list(found.values()), labels


def samples_of(options, model):
    """Returns the inputs that `--data` names, or `None` without it."""
    return None if options.data is None else load_samples(options.data, model)[0]


def load_labels(path):
    """Loads labels from a `.npy` file, or from a `.npz` file with one array."""
    found = _arrays(path)
    if isinstance(found, dict):
        if len(found) != 1 and "y" not in found:
            raise ValueError(f"'{path}' has several arrays: {', '.join(found)}.")
        return found["y"] if "y" in found else next(iter(found.values()))
    return found


def _arrays(path):
    """Returns the array of a `.npy` file, or a dict of those of a `.npz` file."""
    import numpy as np

    try:
        found = np.load(path, allow_pickle=False)
        found = found if isinstance(found, np.ndarray) else dict(found)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"'{path}' is no .npy or .npz file of numbers: {error}"
        ) from error
    arrays = list(found.values()) if isinstance(found, dict) else [found]
    if not arrays or not all(isinstance(array, np.ndarray) for array in arrays):
        raise ValueError(f"'{path}' is no .npy or .npz file of numbers.")
    return found


@contextlib.contextmanager
def working(words):
    """Context that shows on a terminal what is done, and for how long."""
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    with progress.Progress(
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description}"),
        progress.TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as shown:
        shown.add_task(words, total=None)
        yield


def save_model(model, options):
    """Saves a model to the output, completely or not at all."""
    from keras_pruner.training import save_model as save_in_one_step

    save_in_one_step(model, options.output)


def show(options, shown, **further):
    """Prints a report, and the path of the output; or all as JSON.

    Args:
        options: Parsed arguments, with `--json` and perhaps the output.
        shown: `Shown` with `rows`, and perhaps `totals`.
        **further: Further items of the JSON.
    """
    output = getattr(options, "output", None)
    if options.json:
        path = {} if output is None else {"output": output}
        totals = {"totals": shown.totals()} if hasattr(shown, "totals") else {}
        print_json({**path, **further, **totals, "rows": shown.rows()})
        return
    print(text_of(shown, options))
    if output is not None:
        print(f"Saved to '{output}'.")


def text_of(shown, options):
    """Returns a report as text, with a line for each kernel if `--all` says so."""
    from keras_pruner.reporting import as_text

    return as_text(shown.view(getattr(options, "all", False)), way_to_expand="`--all`")


def print_json(item):
    """Prints plain values as JSON; NaN and infinite numbers are null."""
    print(json.dumps(_plain(item), indent=2))


def _plain(item):
    if isinstance(item, dict):
        return {str(key): _plain(value) for key, value in item.items()}
    if isinstance(item, list | tuple | set):
        return [_plain(value) for value in item]
    if hasattr(item, "item") and not getattr(item, "shape", ()):
        item = item.item()
    if isinstance(item, float) and not abs(item) < float("inf"):
        return None
    return item if isinstance(item, int | float | str | None) else str(item)
