"""Trains, prunes, strips, saves and reloads a model on real data."""

import os
import subprocess
import sys
import tempfile
import time
import zlib

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from keras_pruner.reporting import report
from keras_pruner.slimming import strip
from keras_pruner.training import PruningCallback

# Runs in a fresh process without this package, because a stripped model is plain.
_RELOAD = """
import sys, keras, numpy as np
data = np.load(sys.argv[2])
model = keras.models.load_model(sys.argv[1])
predicted = model.predict(data["x"], verbose=0).argmax(axis=-1)
if "keras_pruner" in sys.modules:
    raise SystemExit("the stripped model needed keras_pruner")
print("accuracy", (predicted == data["y"]).mean())
"""


def load_digits():
    """Returns scikit-learn's digits, in [0, 1], as 1,437 training and 360 test images.

    Raises:
        ImportError: If scikit-learn is not installed.
    """
    try:
        from sklearn import datasets, model_selection
    except ImportError as error:
        raise ImportError(
            "The demo's data comes with scikit-learn. Install it, or "
            "keras-pruner[demo]."
        ) from error
    digits = datasets.load_digits()
    images = (digits.images / 16.0).astype("float32")[..., None]
    return model_selection.train_test_split(
        images,
        digits.target,
        test_size=360,
        stratify=digits.target,
        random_state=0,
    )


def build_convnet():
    """Returns a compiled ConvNet that classifies 8 x 8 images into ten classes."""
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(10),
        ],
        name="digits_convnet",
    )
    compile_classifier(model)
    return model


def compile_classifier(model):
    """Compiles a classifier that returns logits."""
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


def run_demo(target_sparsity=0.9, epochs=15, seed=0):
    """Trains, prunes, strips, saves and reloads a ConvNet, and prints a table.

    Args:
        target_sparsity: Fraction of weights to zero, in [0, 1).
        epochs: Epochs of training before pruning, and again while pruning.
        seed: Seed of weights and shuffling.

    Returns:
        Dict of the numbers in the table.
    """
    callback = PruningCallback(target_sparsity=target_sparsity)
    keras.utils.set_random_seed(seed)
    console = Console()
    x_train, x_test, y_train, y_test = load_digits()
    model = build_convnet()

    console.rule(f"Training a dense ConvNet, {epochs} epochs")
    start = time.perf_counter()
    model.fit(x_train, y_train, batch_size=64, epochs=epochs, verbose=2)
    dense_seconds = time.perf_counter() - start
    dense_accuracy = model.evaluate(x_test, y_test, verbose=0)[1]

    with tempfile.TemporaryDirectory() as folder:
        dense_path = os.path.join(folder, "dense.keras")
        # `strip` copies the model, so neither file holds an optimizer.
        strip(model).save(dense_path)

        console.rule(f"Pruning it in fit to {target_sparsity:.0%}, {epochs} epochs")
        start = time.perf_counter()
        model.fit(
            x_train, y_train, batch_size=64, epochs=epochs, verbose=2,
            callbacks=[callback],
        )  # fmt: skip
        pruned_seconds = time.perf_counter() - start
        pruned_accuracy = model.evaluate(x_test, y_test, verbose=0)[1]

        pruned_path = os.path.join(folder, "pruned.keras")
        strip(model).save(pruned_path)
        console.rule("Reloading the stripped model in a fresh process")
        reloaded_accuracy = _reload(pruned_path, x_test, y_test, folder)
        sizes = {
            name: (os.path.getsize(path), _zipped_size(path))
            for name, path in (("dense", dense_path), ("pruned", pruned_path))
        }

    print(report(model, callback.config))
    result = {
        "dense_accuracy": dense_accuracy,
        "pruned_accuracy": pruned_accuracy,
        "reloaded_accuracy": reloaded_accuracy,
        "sparsity": callback.sparsity,
        "dense_bytes": sizes["dense"][0],
        "pruned_bytes": sizes["pruned"][0],
        "dense_zipped_bytes": sizes["dense"][1],
        "pruned_zipped_bytes": sizes["pruned"][1],
        "dense_seconds": dense_seconds,
        "pruned_seconds": pruned_seconds,
    }
    console.print(_table(result))
    return result


def _reload(path, x, y, folder):
    data = os.path.join(folder, "test.npz")
    np.savez(data, x=x, y=y)
    done = subprocess.run(
        [sys.executable, "-c", _RELOAD, path, data],
        capture_output=True,
        text=True,
        env=os.environ | {"KERAS_BACKEND": keras.backend.backend()},
        cwd=folder,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("accuracy")]
    if done.returncode or not lines:
        raise RuntimeError(f"The saved model could not be reloaded:\n{done.stderr}")
    return float(lines[-1].split()[1])


def _zipped_size(path):
    with open(path, "rb") as file:
        return len(zlib.compress(file.read(), level=6))


def _table(result):
    table = Table(title="scikit-learn's digits, 360 test images")
    for name in ("", "dense", "pruned", "ratio"):
        table.add_column(name, justify="left" if not name else "right")
    table.add_row(
        "test accuracy",
        f"{result['dense_accuracy']:.2%}",
        f"{result['pruned_accuracy']:.2%}",
        "",
    )
    table.add_row("  reloaded", "", f"{result['reloaded_accuracy']:.2%}", "")
    table.add_row("sparsity of kernels", "0.00%", f"{result['sparsity']:.2%}", "")
    for label, key in (("file, bytes", "bytes"), ("  zipped", "zipped_bytes")):
        dense, pruned = result[f"dense_{key}"], result[f"pruned_{key}"]
        table.add_row(label, f"{dense:,}", f"{pruned:,}", f"{dense / pruned:.2f}x")
    table.add_row(
        "seconds in fit",
        f"{result['dense_seconds']:.1f}",
        f"{result['pruned_seconds']:.1f}",
        f"{result['dense_seconds'] / result['pruned_seconds']:.2f}x",
    )
    return table
