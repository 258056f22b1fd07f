"""All public names have annotations, which hold under a type checker."""

import inspect
import os
import pathlib
import subprocess
import sys
import typing
from collections.abc import Mapping

import pytest
from conftest import BACKEND

import keras_pruner
from keras_pruner import components, config, kernels, pruners
from keras_pruner.compat import neural_compressor, tfmot

ROOT = pathlib.Path(__file__).parent.parent
# Classes that public functions take and return, beside those with public names.
FURTHER = [
    components.KernelPlan,
    kernels.Kernel,
    kernels.Selection,
    pruners.PrunerGroup,
]


def public_objects():
    """Yields the public functions and classes, also those in registries."""
    yield from FURTHER
    for module in (keras_pruner, tfmot.sparsity.keras, neural_compressor):
        for name in module.__all__:
            value = getattr(module, name)
            if isinstance(value, Mapping):
                yield from (type(value), *value.values())
            else:
                yield value


def functions_of(cls):
    """Yields the constructor, the public methods and the properties of a class."""
    for base in cls.__mro__:
        for name, value in vars(base).items():
            if name == "__init__" or not name.startswith("_"):
                if isinstance(value, property):
                    yield from (value.fget, value.fset)
                elif isinstance(value, staticmethod | classmethod):
                    yield value.__func__
                elif inspect.isfunction(value):
                    yield value


def public_functions():
    """Returns the functions of this package behind all public names, each once."""
    found = []
    for value in public_objects():
        found += functions_of(value) if inspect.isclass(value) else [value]
    functions = map(inspect.unwrap, filter(inspect.isroutine, found))
    functions = [getattr(function, "__func__", function) for function in functions]
    return [
        function
        for function in dict.fromkeys(functions)
        # Dataclasses make further ones.
        if inspect.getsourcefile(function).startswith(str(ROOT / "keras_pruner"))
    ]


def test_every_public_function_is_annotated():
    functions = public_functions()
    assert len(functions) > 500
    missing = []
    for function in functions:
        code = function.__code__
        takes = code.co_argcount + code.co_kwonlyargcount
        takes += bool(code.co_flags & inspect.CO_VARARGS)
        takes += bool(code.co_flags & inspect.CO_VARKEYWORDS)
        names = code.co_varnames[:takes]
        is_method = names[:1] in (("self",), ("cls",))
        known = function.__annotations__
        lacking = {*names[is_method:], "return"} - set(known)
        if lacking:
            missing.append((f"{function.__module__}.{function.__qualname__}", lacking))
    assert missing == []


def test_annotations_can_be_read():
    for function in public_functions():
        assert "return" in typing.get_type_hints(function), function


def test_settings_have_the_types_of_the_settings_everywhere():
    for function in (keras_pruner.wrap, keras_pruner.PruningCallback.__init__):
        assert function.__annotations__["settings"] == typing.Unpack[config.Settings]
    own = set(config.Settings.__annotations__) - {"target_sparsity", "allocation"}
    assert set(config.OneShotSettings.__annotations__) == own


def run_mypy(*paths):
    """Returns what mypy says of files, with the settings of the repository."""
    pytest.importorskip("mypy", reason="mypy is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", *paths],
        cwd=ROOT,
        env=os.environ | {"MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    return done.stdout + done.stderr


# The types do not depend on the backend.
once = pytest.mark.skipif(BACKEND != "tensorflow", reason="runs once, on TensorFlow")


@once
@pytest.mark.slow
def test_types_hold_in_the_package():
    assert run_mypy("keras_pruner") == ""


@once
@pytest.mark.slow
def test_types_hold_for_users_and_errors_are_found():
    # As for an installed package: only what the program says.
    arguments = ("--strict", "--allow-subclassing-any", "--follow-imports=silent")
    assert run_mypy(*arguments, "tests/typed_program.py") == ""
