"""Times a model and a smaller one, by engine and batch size.

    python benchmarks/latency.py dense.keras smaller.keras --batch 1 16
    python benchmarks/latency.py ResNet50V2 smaller.keras --input 128 128 3
    python benchmarks/latency.py MobileNetV2 MobileNetV2 --other alpha=0.5
    python benchmarks/latency.py transformer transformer --other heads=4 units=512

A model is a `.keras` file, or the name of a class in `keras.applications`, built with
initial weights, or `transformer`: a small vision transformer. Prints the table of
`measure`, and a markdown table of the ratios.
"""

import argparse
import ast
import json

import keras

from keras_pruner import measure


def load(name, input_shape, settings):
    """Returns the model of a file, or one of `keras.applications`."""
    if name.endswith(".keras"):
        return keras.saving.load_model(name, compile=False)
    if name == "transformer":
        return transformer(input_shape, **settings)
    settings = {"weights": None, "input_shape": input_shape} | settings
    return getattr(keras.applications, name)(**settings)


def transformer(input_shape, blocks=4, width=256, heads=8, key_dim=32, units=1024):
    """Returns a vision transformer of patches of 16 x 16."""
    layers = keras.layers
    inputs = keras.Input(input_shape)
    x = layers.Conv2D(width, 16, strides=16)(inputs)
    x = layers.Reshape((-1, width))(x)
    for _ in range(blocks):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(heads, key_dim)(y, y)])
        y = layers.Dense(units, "relu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(width)(y)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(10)(x))


def setting(text):
    """Returns a pair of a name and a Python value from `name=value`."""
    name, _, value = text.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value


def ratios(rows):
    """Prints ratios of wall times, with those of CPU times in parentheses.

    Args:
        rows: What `Measurement.rows` returned.
    """
    engines = list(dict.fromkeys(row["engine"] for row in rows))
    print("| batch |", " | ".join(engines), "|\n|---" + "|---" * len(engines) + "|")
    for size in dict.fromkeys(row["batch_size"] for row in rows):
        of_size = {r["engine"]: r for r in rows if r["batch_size"] == size}
        cells = [_cell(of_size[engine]) for engine in engines]
        print(f"| {size} |", " | ".join(cells), "|")


def _cell(row):
    if row["reason"] is not None:
        return "-"
    low, high = row["ratio_quartiles"]
    return f"{row['ratio']:.2f} ({low:.2f} - {high:.2f}; CPU {row['cpu_ratio']:.2f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("smaller")
    parser.add_argument("--input", type=int, nargs="+", default=[128, 128, 3])
    parser.add_argument("--settings", type=setting, nargs="*", default=[])
    parser.add_argument("--other", type=setting, nargs="*", default=[])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--engines", nargs="*")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    shape, settings = tuple(arguments.input), dict(arguments.settings)
    found = measure(
        load(arguments.model, shape, settings),
        load(arguments.smaller, shape, settings | dict(arguments.other)),
        batch_size=arguments.batch,
        engines=arguments.engines,
        num_threads=arguments.threads,
        rounds=arguments.rounds,
        verbose=True,
    )
    print(found.to_text(width=100), "\n")
    ratios(found.rows())
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"rows": found.rows(), "totals": found.totals()}, file, indent=1)


if __name__ == "__main__":
    main()
