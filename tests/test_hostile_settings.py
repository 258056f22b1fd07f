"""Whatever a setting is given: it is taken whole, or refused by name."""

import contextlib
import copy
import dataclasses
import decimal
import fractions
import inspect
import json

import keras
import numpy as np
import pytest
from contracts import SETTINGS

from keras_pruner.components import (
    ALLOCATIONS,
    CRITERIA,
    PATTERNS,
    REGULARIZERS,
    SCHEDULES,
)
from keras_pruner.config import PRUNERS, PruningConfig

FAMILIES = {
    "pattern": PATTERNS,
    "criterion": CRITERIA,
    "allocation": ALLOCATIONS,
    "schedule": SCHEDULES,
    "regularizer": REGULARIZERS,
}
FIELDS = [field.name for field in dataclasses.fields(PruningConfig)]


class Unprintable:
    def __repr__(self):
        raise RuntimeError("no")


class Incomparable:
    def __eq__(self, other):
        raise RuntimeError("no")

    __hash__ = None


def nested():
    value = []
    value.append(value)
    return value


def looped():
    value = {}
    value["config"] = value
    return value


HOSTILE = [
    # Numbers, and what looks like one.
    None, True, False, np.True_, 0, 1, -1, 3, 2.5, 90, 0.5, np.float32(0.5),
    np.int64(4), float("nan"), np.float32("nan"), float("inf"), -float("inf"),
    10**400, -(10**400), 10**5000, 2**63, 1e39, 1e-320, 1j, "0.9",
    decimal.Decimal("0.5"), fractions.Fraction(1, 2), np.array(0.5), np.zeros(2),
    np.zeros((2, 2)), np.array(["a", "b"]), np.zeros(0), NotImplemented, ...,
    # Strings.
    "", "x", "none", "\0", "\ud800", "(" * 3000, "[", "*", "a{99999999999999999999}",
    "x" * 10**5, "9" * 5000, "9" * 5000 + "x1", "1:" + "9" * 5000, "\uff14x1", "4x1x2",
    "0x4", "4:2", "1xchannel", "global", "snip", "snip_progressive", "rigl", "custom",
    "{n}x{m}", b"x", memoryview(b"x"),
    # Collections.
    [], [[]], [None], [1], ["("], (), (4, 1), set(), frozenset({"a"}), range(3),
    (value for value in "ab"), nested(), looped(), [Unprintable()], [PruningConfig()],
    {}, {1: 0.5}, {"[": 0.5}, {"a": "x"}, {"a": 10**400}, {"a": {}}, {None: None},
    {"name": ["x"]}, {"name": "x"}, {"name": {}}, {"name": "erk", "config": 5},
    {"name": "l1", "config": {"x": 1}}, {"name": "polynomial", "config": {1: 2}},
    {"name": "polynomial", "config": {"power": "3"}}, {"config": {}}, {"include": 3},
    {"x": object()}, {"x": float("nan")}, {"a": Incomparable()},
    # Objects.
    object(), object, int, Exception("x"), len, keras.layers.Dense, keras,
    keras.layers.Dense(2), Unprintable(), Incomparable(), PruningConfig(),
]  # fmt: skip


@contextlib.contextmanager
def only_clear_errors(*words):
    """Lets errors pass that have the right type, and name the setting briefly."""
    try:
        yield
    except (TypeError, ValueError) as error:
        text = str(error)
        assert type(error) in (TypeError, ValueError)
        assert any(word in text.lower() for word in words), text
        assert len(text) < 1200, len(text)


def is_whole(config):
    """Asserts that a config that was taken can be printed, compared and saved."""
    assert isinstance(repr(config), str)
    assert isinstance(hash(config), int)
    parts = (config, *config.local_configs)
    selectors = [s for part in parts for s in (*(part.include or ()), *part.exclude)]
    if all(isinstance(selector, str) for selector in selectors):
        assert copy.deepcopy(config) == config
        try:
            saved = json.dumps(config.to_dict())
        except ValueError as error:
            assert "cannot be saved" in str(error), error
        else:
            assert PruningConfig.from_dict(json.loads(saved)) == config


@pytest.mark.parametrize("field", FIELDS)
def test_field_takes_a_value_whole_or_refuses_it_by_name(field):
    for value in HOSTILE:
        with only_clear_errors(field):
            is_whole(PruningConfig(**{field: value}))


ARGUMENTS = [
    (key, name, argument)
    for key, registry in FAMILIES.items()
    for name in registry
    for argument in [*inspect.signature(registry[name]).parameters, "of_nobody", 7]
]


@pytest.mark.parametrize(("key", "name", "argument"), ARGUMENTS)
def test_argument_of_a_component_is_taken_whole_or_refused(key, name, argument):
    for value in HOSTILE:
        with only_clear_errors(key):
            config = {"name": name, "config": {argument: value}}
            is_whole(PruningConfig(**{key: config}))


OPTIONS = [
    (name, option)
    for name in PRUNERS
    for option in [*PRUNERS[name].default_options, "of_nobody"]
]


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_option_of_a_pruner_is_taken_whole_or_refused(name, option):
    settings = {"pruning_type": name} | SETTINGS.get(f"pruning_type {name}", {})
    for value in HOSTILE:
        with only_clear_errors(option, "pruner_options"):
            is_whole(PruningConfig(**settings, pruner_options={option: value}))


@pytest.mark.parametrize("field", FIELDS)
def test_error_in_a_local_config_says_in_which(field):
    for value in HOSTILE:
        with only_clear_errors("`local_configs[1]`"):
            local = {"layer_types": "Dense", field: value}
            is_whole(PruningConfig(local_configs=[{"include": "a"}, local]))
