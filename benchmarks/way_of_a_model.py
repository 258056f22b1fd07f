"""Follows a model through the files of the package when `fit` begins.

Prints, for every call of a function of the package that is given the model, the file
that it enters; then how many times a file is entered, how many files there are, and how
many calls climb from a lower layer of the house into a higher one. The layers are those
of tests/test_architecture.py.

    python benchmarks/way_of_a_model.py
"""

import ast
import pathlib
import sys

import keras
import numpy as np

import keras_pruner

PACKAGE = pathlib.Path(keras_pruner.__file__).parent


def heights():
    """Returns a dict from a file or folder right in the package to its layer."""
    # Beside the package in a checkout; else beside this script.
    roots = PACKAGE.parent, pathlib.Path(__file__).parents[1]
    paths = [root / "tests" / "test_architecture.py" for root in roots]
    path = next(path for path in paths if path.exists())
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "LAYERS":
            layers = ast.literal_eval(node.value)
            return {part: i for i, layer in enumerate(layers) for part in layer}
    raise SystemExit(f"{path} has no LAYERS.")


def place_of(frame):
    """Returns a frame's file in the package, or `None`."""
    path = pathlib.Path(frame.f_code.co_filename)
    return path.relative_to(PACKAGE) if path.is_relative_to(PACKAGE) else None


def follow(model, function):
    """Calls a function; returns the pairs of caller's and callee's file.

    A call counts if one of its arguments is the model.
    """
    calls = []

    def trace(frame, event, argument):
        if event != "call" or (place := place_of(frame)) is None:
            return
        code = frame.f_code
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if not any(frame.f_locals.get(name) is model for name in names):
            return
        caller = frame.f_back
        while caller is not None and place_of(caller) is None:
            caller = caller.f_back
        calls.append((None if caller is None else place_of(caller), place))

    sys.setprofile(trace)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls


def main():
    model = keras.Sequential(
        [keras.Input((16,)), keras.layers.Dense(8), keras.layers.Dense(3)]
    )
    model.compile("adam", "mse")
    callback = keras_pruner.PruningCallback(target_sparsity=0.5, verbose=False)
    # What is made once in a process is no part of the way.
    model.fit(np.ones((4, 16)), np.ones((4, 3)), verbose=0)
    calls = follow(model, lambda: callback.set_model(model))
    stays = [calls[0][1]]
    for caller, callee in calls:
        for place in (caller, callee):
            if place is not None and place != stays[-1]:
                stays.append(place)
    height = heights()

    def layer(place):
        return height[place.parts[0].removesuffix(".py")]

    climbs = [
        (caller, callee)
        for caller, callee in calls
        if caller is not None and layer(callee) > layer(caller)
    ]
    for number, place in enumerate(stays, 1):
        print(f"{number:3} {place}")
    files = len(set(stays))
    print(f"{len(stays)} visits, {files} files, {len(climbs)} calls that climb")


if __name__ == "__main__":
    main()
