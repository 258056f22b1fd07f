"""`PruningConfig`: what it takes, what it refuses, and what selectors select."""

import copy
import dataclasses
import fractions
import inspect
import json
import re

import keras
import numpy as np
import pytest
from conftest import build_mlp
from keras import layers

from keras_pruner import PrunedLayer, PruningCallback, report, wrap
from keras_pruner.checks import check_in_range, check_option
from keras_pruner.components import CRITERIA, SCHEDULES, Custom
from keras_pruner.components.patterns.block import Block
from keras_pruner.config import (
    PruningConfig,
    Settings,
    as_config,
    merged_config,
    takes_settings,
)
from keras_pruner.config.foreign_names import FOREIGN_NAMES, FOREIGN_VALUES
from keras_pruner.intel_names import KEY_ALIASES
from keras_pruner.kernels import matches_path, select_kernels
from keras_pruner.oneshot import prune_at_init
from keras_pruner.pruners import KerasBasePruner, create_pruners

FIELDS = [field.name for field in dataclasses.fields(PruningConfig)]


def refuses(message, error=ValueError, /, **values):
    """Asserts that a config of these values is refused with this text."""
    with pytest.raises(error) as raised:
        PruningConfig(**values)
    assert message in str(raised.value)


def ten_dense():
    """dense_1 (4 x 4), dense_10 (4 x 2) and the head (2 x 3): 16, 8 and 6 weights."""
    return keras.Sequential(
        [
            layers.Input((4,)),
            layers.Dense(4, name="dense_1"),
            layers.Dense(2, name="dense_10"),
            layers.Dense(3, name="head"),
        ]
    )


def selected(model, **values):
    kernels = select_kernels(model, PruningConfig(**values))[0].kernels
    return [kernel.path for kernel in kernels]


# Defaults.


def test_defaults():
    config = PruningConfig()
    assert config.target_sparsity == 0.9
    assert str(config.pattern) == "1x1"
    # Left to the pruner and the criterion.
    assert (config.criterion, config.allocation, config.schedule) == (None,) * 3
    complete = KerasBasePruner(config, build_mlp()).config
    assert complete.criterion.name == "second_moment"
    assert complete.allocation.name == "global_l2"
    assert repr(complete.schedule) == "Exponential(power=2.0)"
    assert (config.begin_step, config.end_step, config.frequency) == (None, None, None)
    assert (config.include, config.exclude, config.local_configs) == (None, (), ())
    assert (config.min_sparsity, config.max_sparsity) == (0.0, None)
    assert repr(config) == "PruningConfig(target_sparsity=0.9)"


@pytest.mark.parametrize(
    "settings, criterion",
    [
        ({"target_sparsity": 0.8}, "magnitude"),
        ({"target_sparsity": 0.81}, "second_moment"),
        ({"target_sparsity": 0.81, "criterion": "magnitude"}, "magnitude"),
        ({"target_sparsity": 0.8, "pattern": "1x4"}, "magnitude"),
        ({"target_sparsity": 0.9, "pattern": "1x4"}, "second_moment"),
        ({"target_sparsity": 0.9, "pattern": "1xchannel"}, "magnitude"),
        ({"target_sparsity": 0.9, "pruning_type": "ste"}, "magnitude"),
        (
            {"target_sparsity": 0.9, "pruning_type": "progressive", "pattern": "1x4"},
            "magnitude",
        ),
        ({"target_sparsity": 0.9, "pruning_type": "rigl"}, "magnitude"),
        ({"target_sparsity": 0.9, "pruning_type": "lottery_ticket"}, "magnitude"),
    ],
)
def test_an_open_criterion_follows_the_target(settings, criterion):
    (pruner,) = create_pruners(settings, build_mlp())
    assert pruner.config.criterion.name == criterion


@pytest.mark.parametrize(
    ("settings", "schedule"),
    [
        ({"target_sparsity": 0.8}, "Polynomial(power=3.0)"),
        ({"target_sparsity": 0.81}, "Exponential(power=2.0)"),
        ({"target_sparsity": 0.9, "schedule": "exp"}, "Exponential(power=1.0)"),
        ({"target_sparsity": 0.9, "criterion": "magnitude"}, "Exponential(power=2.0)"),
        ({"target_sparsity": 0.9, "criterion": "movement"}, "Polynomial(power=3.0)"),
        ({"target_sparsity": 0.9, "pruning_type": "st3"}, "Polynomial(power=3.0)"),
        ({"target_sparsity": 0.9, "pruning_type": "acdc"}, "Polynomial(power=3.0)"),
        ({"target_sparsity": 0.9, "pruning_type": "rigl"}, "Constant()"),
    ],
)
def test_an_open_schedule_follows_the_target(settings, schedule):
    (pruner,) = create_pruners(settings, build_mlp())
    assert repr(pruner.config.schedule) == schedule


def test_an_open_criterion_follows_the_target_of_a_local_config():
    local = {"include": "head", "target_sparsity": 0.7}
    pruners = create_pruners({"local_configs": [local]}, build_mlp())
    names = {p.kernels[0].path: p.config.criterion.name for p in pruners}
    assert names == {"hidden/kernel": "second_moment", "head/kernel": "magnitude"}


@pytest.mark.parametrize(
    ("pattern", "target"),
    [("1x1", 0.9), ("4x1", 0.9), ("1:4", 0.25), ("2:4", 0.5), ("3:4", 0.75)],
)
def test_default_target_is_the_most_that_the_pattern_prunes(pattern, target):
    assert PruningConfig(pattern=pattern).target_sparsity == target


def test_none_stands_for_the_default_of_a_component():
    config = PruningConfig(pattern=None, criterion=None, allocation=None, schedule=None)
    assert config == PruningConfig()


def test_changed_fields_are_printed():
    config = PruningConfig(target_sparsity=0.5, pattern="4x1", include="head")
    assert repr(config) == (
        "PruningConfig(target_sparsity=0.5, pattern=Block(outputs=4, inputs=1), "
        "include=('head',))"
    )


# Values that are refused.


@pytest.mark.parametrize("key", ["target_sparsity", "initial_sparsity"])
@pytest.mark.parametrize("value", [1, 1.0, -0.1])
def test_sparsity_outside_its_range_is_an_error(key, value):
    message = f"`{key}` must be in [0, 1). Received: {value}"
    refuses(message, **{key: value})


@pytest.mark.parametrize("key", ["min_sparsity", "max_sparsity"])
@pytest.mark.parametrize("value", [-0.1, 101])
def test_cap_outside_its_range_is_an_error(key, value):
    message = f"`{key}` must be in [0, 1]. Received: {value}"
    refuses(message, **{key: value})


@pytest.mark.parametrize("value", [90, 1.5, 100])
def test_sparsity_that_looks_like_a_percentage_says_so(value):
    message = (
        "`target_sparsity` must be in [0, 1) (a fraction, not a percentage). "
        f"Received: {value}"
    )
    refuses(message, target_sparsity=value)
    message = "`max_sparsity` must be in [0, 1] (a fraction, not a percentage)."
    refuses(message, max_sparsity=value)


def test_sparsity_that_is_nan_is_an_error():
    message = "`target_sparsity` must be in [0, 1). Received: nan"
    refuses(message, target_sparsity=float("nan"))


@pytest.mark.parametrize("value", ["0.9", True, [0.9]])
def test_sparsity_that_is_no_number_is_an_error(value):
    message = f"`target_sparsity` must be a number. Received: {value!r}"
    refuses(message, TypeError, target_sparsity=value)


@pytest.mark.parametrize("key", ["begin_step", "end_step"])
def test_step_below_zero_is_an_error(key):
    refuses(f"`{key}` must be >= 0. Received: -1", **{key: -1})


@pytest.mark.parametrize("value", [0, -5])
def test_frequency_below_one_is_an_error(value):
    refuses(f"`frequency` must be >= 1. Received: {value}", frequency=value)


@pytest.mark.parametrize("key", ["begin_step", "end_step", "frequency"])
@pytest.mark.parametrize(
    "value", [1.5, "10", "ten", True, [10], float("nan"), float("inf")]
)
def test_step_that_is_no_integer_is_an_error(key, value):
    message = f"`{key}` must be an integer. Received: {value!r}"
    refuses(message, TypeError, **{key: value})


def test_steps_that_are_whole_floats_become_integers():
    config = PruningConfig(begin_step=1.0, end_step=np.int64(10), frequency=2.0)
    steps = (config.begin_step, config.end_step, config.frequency)
    assert steps == (1, 10, 2)
    assert {type(step) for step in steps} == {int}


def test_end_before_begin_is_an_error():
    refuses(
        "`end_step` must not come before `begin_step`. "
        "Received: begin_step=10, end_step=9",
        begin_step=10,
        end_step=9,
    )
    assert PruningConfig(begin_step=10, end_step=10).end_step == 10


def test_initial_sparsity_above_the_target_is_an_error():
    refuses(
        "`initial_sparsity` must not exceed `target_sparsity`. Received: 0.6 > 0.5",
        initial_sparsity=0.6,
        target_sparsity=0.5,
    )


def test_caps_that_contradict_each_other_are_an_error():
    refuses(
        "`min_sparsity` must not exceed `max_sparsity`. Received: 0.6 > 0.4",
        min_sparsity=0.6,
        max_sparsity=0.4,
    )


@pytest.mark.parametrize("caps", [(0.0, 0.8), (0.95, 1.0)])
def test_caps_that_cannot_meet_the_target_are_an_error(caps):
    lowest, highest = caps
    refuses(
        "The caps cannot meet the target: kernels that each have a sparsity in "
        f"[{lowest}, {highest}] cannot have 0.9 together.",
        target_sparsity=0.9,
        min_sparsity=lowest,
        max_sparsity=highest,
    )


def test_target_above_what_the_pattern_prunes_is_an_error():
    refuses(
        "Pattern '1:4' prunes at most 0.25 of a kernel, so `target_sparsity` cannot be "
        "met. Lower it to 0.25, or use another pattern. Received: 0.5",
        pattern="1:4",
        target_sparsity=0.5,
    )
    assert PruningConfig(pattern="3:4", target_sparsity=0.75).target_sparsity == 0.75


def test_lowest_sparsity_above_what_the_pattern_prunes_is_an_error():
    refuses(
        "Pattern '2:4' prunes at most 0.5 of a kernel, so `min_sparsity` cannot be "
        "met. Lower it to 0.5, or use another pattern. Received: 0.6",
        pattern="2:4",
        min_sparsity=0.6,
    )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("pattern", "chanelx1", "Unknown pattern 'chanelx1'."),
        ("criterion", "magnitud", "Unknown criterion 'magnitud'."),
        ("schedule", "polynom", "Unknown schedule 'polynom'."),
        ("allocation", "globl", "Unknown allocation 'globl'."),
        ("regularizer", "group_laso", "Unknown regularizer 'group_laso'."),
    ],
)
def test_unknown_name_is_an_error_that_names_the_nearest(key, value, message):
    nearest = {
        "pattern": "channelx1",
        "criterion": "magnitude",
        "schedule": "polynomial",
        "allocation": "global",
        "regularizer": "group_lasso",
    }
    refuses(message, **{key: value})
    refuses(f"Did you mean '{nearest[key]}'?", **{key: value})


def test_unknown_pattern_is_an_error():
    refuses("Unknown pattern 'abc'. Known: 1x1, {n}x{m}", pattern="abc")


def test_unknown_group_reduction_is_an_error_that_names_the_nearest():
    refuses(
        "`group_reduction` must be one of mean, sum, max, l2. Did you mean 'mean'? "
        "Received: 'meen'",
        group_reduction="meen",
    )


@pytest.mark.parametrize("key", ["low_memory_usage", "resume_from_pruned_checkpoint"])
def test_flag_that_is_no_bool_is_an_error(key):
    refuses(f"`{key}` must be True or False. Received: 1", TypeError, **{key: 1})


def test_pruning_type_that_is_no_name_is_an_error():
    message = "`pruning_type` is the registered name of a pruner. Received: 3"
    refuses(message, TypeError, pruning_type=3)


def test_unknown_pruning_type_is_an_error_that_names_the_nearest():
    refuses("Unknown pruner 'basik'. Known: basic, block_mask, ", pruning_type="basik")
    refuses("Did you mean 'basic'?", pruning_type="basik")


def test_option_that_the_pruner_does_not_have_is_an_error_that_names_the_nearest():
    refuses(
        "Unknown option 'drop_fractoin' of pruner 'rigl'. Did you mean 'drop_fraction'?"
        " Its options: drop_fraction.",
        pruning_type="rigl",
        pruner_options={"drop_fractoin": 0.2},
    )


def test_settings_that_the_pruner_cannot_work_with_are_an_error():
    refuses(
        "Option 'drop_fraction' must be in [0, 1]",
        pruning_type="rigl",
        pruner_options={"drop_fraction": 2},
    )
    refuses("Pruner 'rigl' moves whole groups", pruning_type="rigl", pattern="2:4")
    refuses("Pruner 'progressive' goes between", pruning_type="progressive")


@pytest.mark.parametrize("value", [-0.1, float("inf"), float("nan")])
def test_regularizer_strength_outside_its_range_is_an_error(value):
    refuses(
        f"`regularizer_strength` must be finite and >= 0. Received: {value}",
        regularizer_strength=value,
    )


def test_regularizer_strength_beyond_float32_is_an_error():
    refuses(
        "`regularizer_strength` must be finite and >= 0 (float32 holds at most "
        "3.40282e+38). Received: 1e+39",
        regularizer_strength=1e39,
    )
    assert PruningConfig(regularizer_strength=3.4e38).regularizer_strength == 3.4e38


@pytest.mark.parametrize("digits", [400, 5000])
@pytest.mark.parametrize(
    "key",
    ["target_sparsity", "max_sparsity", "begin_step", "end_step", "frequency"]
    + ["mask_bits", "regularizer_strength"],
)
def test_integer_that_no_float_holds_is_an_error_of_a_bounded_length(key, digits):
    for value in (10**digits, -(10**digits)):
        with pytest.raises(ValueError, match=f"`{key}` must be") as raised:
            PruningConfig(**{key: value})
        assert len(str(raised.value)) < 150


@pytest.mark.parametrize(
    "make",
    [
        lambda n: Custom({"a": n}),
        lambda n: CRITERIA.get({"name": "snip_momentum", "config": {"decay": n}}),
        lambda n: CRITERIA.get({"name": "movement", "config": {"penalty": n}}),
        lambda n: CRITERIA.get({"name": "random", "config": {"seed": n}}),
        lambda n: CRITERIA.get({"name": "synflow", "config": {"num_rounds": n}}),
        lambda n: SCHEDULES.get({"name": "polynomial", "config": {"power": n}}),
        lambda n: check_option({"rate": n}, "rate", 0, 1000),
        lambda n: check_option({"seed": n}, "seed", 0, 1000, integer=True),
    ],
)
def test_component_refuses_an_integer_that_no_float_holds(make):
    with pytest.raises(ValueError, match="must be"):
        make(10**400)


@pytest.mark.parametrize(
    ("value", "settings", "number"),
    [
        (1, {}, 1.0),
        (np.float32(0.5), {"low": 0, "high": 1}, 0.5),
        (fractions.Fraction(1, 4), {"low": 0}, 0.25),
        (np.int64(3), {"integer": True}, 3),
        (-3.0, {"integer": True}, -3),
        (0, {"low": 0, "high": 1}, 0.0),
        (1, {"low": 0, "high": 1}, 1.0),
    ],
)
def test_number_in_range_becomes_a_python_number(value, settings, number):
    found = check_in_range(value, "`x`", **settings)
    assert (found, type(found)) == (number, type(number))


@pytest.mark.parametrize(
    ("value", "settings", "message"),
    [
        (0, {"low": 0, "open_low": True}, "finite and positive. Received: 0"),
        (2, {"low": 2, "open_low": True}, "finite and > 2. Received: 2"),
        (0, {"low": 1, "integer": True}, ">= 1. Received: 0"),
        (1, {"low": 0, "high": 1, "open_high": True}, "in [0, 1). Received: 1"),
        (0, {"low": 0, "high": 2, "open_low": True}, "in (0, 2]. Received: 0"),
        (float("nan"), {}, "finite. Received: nan"),
        (
            2**63,
            {"low": 0, "integer": True},
            ">= 0 (int64 holds at most 9.22337e+18). Received: 9223372036854775808",
        ),
    ],
)
def test_number_outside_its_range_says_what_is_allowed(value, settings, message):
    with pytest.raises(ValueError) as raised:
        check_in_range(value, "`x`", **settings)
    assert str(raised.value) == f"`x` must be {message}"


@pytest.mark.parametrize("value", ["1e-4", None, True])
def test_regularizer_strength_that_is_no_number_is_an_error(value):
    refuses(
        f"`regularizer_strength` must be a number. Received: {value!r}",
        TypeError,
        regularizer_strength=value,
    )


@pytest.mark.parametrize("value", [0, 2, 16])
def test_mask_bits_other_than_one_and_eight_are_an_error(value):
    refuses("`mask_bits` must be 8 (a byte a weight) or 1", mask_bits=value)


@pytest.mark.parametrize("value", ["1", True, 1.5])
def test_mask_bits_that_are_no_integer_are_an_error(value):
    refuses(
        f"`mask_bits` must be an integer. Received: {value!r}",
        TypeError,
        mask_bits=value,
    )


def test_include_of_nothing_is_an_error():
    refuses("`include` is empty, so nothing would be pruned.", include=[])


def test_selector_that_is_no_regular_expression_is_an_error():
    message = "`exclude` holds 'dense(', which is no regular expression: missing ),"
    refuses(message, exclude=["dense("])


def test_selector_of_another_type_is_an_error():
    refuses(
        "`include` takes regular expressions, layers, or functions from a kernel to a "
        "bool. Received: 3 of type int",
        TypeError,
        include=["head", 3],
    )


@pytest.mark.parametrize("value", [{}, 3, layers.Dense(2), None])
def test_layer_type_that_is_no_class_and_no_name_is_an_error(value):
    message = "`layer_types` takes layer classes or their names; `include` takes single"
    refuses(message, TypeError, layer_types=[value])


@pytest.mark.parametrize("given", [layers.Dense, [layers.Dense], "Dense", ("Dense",)])
def test_layer_types_are_classes_or_names(given):
    config = PruningConfig(layer_types=given)
    assert config.layer_types == ("Dense",)
    assert PruningConfig.from_dict(config.to_dict()) == config


def test_layer_types_of_nothing_is_an_error():
    refuses("`layer_types` is empty", layer_types=[])


# Dicts.


# The ways to give settings, which differ in nothing.
TAKERS = {
    "PruningConfig": lambda settings: PruningConfig(**settings),
    "from_dict": PruningConfig.from_dict,
    "PruningCallback": lambda settings: PruningCallback(**settings),
    "as_config": as_config,
    "merged_config": lambda settings: merged_config(None, settings),
    "prune_at_init": lambda settings: prune_at_init(ten_dense(), **settings),
    "wrap": lambda settings: wrap(ten_dense(), **settings),
    "report": lambda settings: report(ten_dense(), **settings),
    "PrunedLayer": lambda settings: PrunedLayer(keras.layers.Dense(2), **settings),
    "local_configs": lambda settings: PruningConfig(local_configs=[settings]),
}


@pytest.fixture(params=TAKERS)
def take(request):
    return TAKERS[request.param]


def test_unknown_key_is_an_error_that_names_the_nearest(take):
    with pytest.raises(ValueError) as raised:
        take({"targt_sparsity": 0.5})
    text = str(raised.value).removeprefix("`local_configs[0]`: ")
    assert text.startswith(
        "Unknown pruning config key 'targt_sparsity'. Did you mean 'target_sparsity'? "
        "Known: allocation, begin_step, criterion, "
    )
    assert "; and Intel's names: criterion_reduce_type, criterion_type, " in text


def test_unknown_key_can_be_nearest_to_one_of_intel(take):
    with pytest.raises(ValueError, match="Did you mean 'pruning_frequency'"):
        take({"pruning_frequencies": 5})


def test_name_of_another_library_is_an_error_that_says_what_to_write(take):
    with pytest.raises(ValueError) as raised:
        take({"final_sparsity": 0.5})
    assert (
        "Unknown pruning config key 'final_sparsity'. Write `target_sparsity=0.9`, a "
        "fraction of weights to zero. Known: "
    ) in str(raised.value)


def test_key_that_is_no_string_is_an_error():
    with pytest.raises(TypeError, match="names of settings. Received: 3"):
        PruningConfig.from_dict({3: 0.5})


@pytest.mark.parametrize("name", FOREIGN_NAMES)
def test_advice_for_a_name_of_another_library_is_code_that_runs(name):
    assert name not in FIELDS and name not in KEY_ALIASES
    settings = re.findall("`(.*?)`", FOREIGN_NAMES[name])
    assert settings
    for setting in settings:
        # Alternatives each set one field; the others are at their defaults.
        assert PruningConfig(**eval(f"dict({setting})")) is not None


@pytest.mark.parametrize("key", FOREIGN_VALUES)
def test_word_of_another_library_is_an_error_that_says_what_to_write(key):
    for word, here in FOREIGN_VALUES[key].items():
        spelled = word.upper().replace("_", "-")
        refuses(f"Write `{key}={here!r}`. Known: ", **{key: spelled})
        PruningConfig(**{key: here})


@pytest.mark.parametrize(
    ("value", "keyword"),
    [
        (0.9, "`target_sparsity=0.9`"),
        (90, "`target_sparsity=90`"),
        ("2:4", "`pattern='2:4'`"),
        ("1xchannel", "`pattern='1xchannel'`"),
        (Block(4, 1), "`pattern=Block(outputs=4, inputs=1)`"),
        ("snip_momentum", "`criterion='snip_momentum'`"),
        ("rigl", "`pruning_type='rigl'`"),
        ("uniform", "`allocation='uniform'`"),
        ("linear", "`schedule='linear'`"),
        ("hello", "`target_sparsity=0.9`"),
        ([0.9], "`target_sparsity=0.9`"),
        (True, "`target_sparsity=0.9`"),
    ],
)
def test_lone_value_in_place_of_a_config_is_told_its_keyword(value, keyword):
    for take in (PruningConfig, PruningCallback, as_config):
        with pytest.raises(TypeError) as raised:
            take(value)
        text = str(raised.value)
        assert f"by name, e.g. {keyword}. Received: {value!r}" in text


def test_constructor_takes_the_names_of_intel():
    assert PruningConfig(start_step=3, op_names="head") == PruningConfig(
        begin_step=3, include="head"
    )
    refuses("'start_step' and 'begin_step' are the same", start_step=1, begin_step=1)


def test_empty_include_is_an_error_except_under_the_name_of_intel():
    for take in (PruningConfig.from_dict, as_config):
        with pytest.raises(ValueError, match="`include` is empty"):
            take({"include": []})
        assert take({"op_names": []}).include is None


# What a new user writes.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "poly"}, "Did you mean 'polynomial'?"),
        ({"criterion": "Magnitude"}, "Did you mean 'magnitude'?"),
        ({"pruning_type": "SR-STE"}, "Did you mean 'sr_ste'?"),
        ({"pattern": "4x1x2"}, "Unknown pattern '4x1x2'. Known: 1x1, {n}x{m}, "),
        ({"pattern": (4, 1)}, "'4x1' for blocks of 4 outputs by 1 inputs"),
        ({"pattern": "4X1"}, "Did you mean '4x1'?"),
        ({"group_reduction": ["mean"]}, "`group_reduction` must be one of mean, sum"),
        (
            {"include": layers.Dense},
            "Use `layer_types` to select the layers of a class",
        ),
        ({"layer_types": layers.Dense(2)}, "`include` takes single layers."),
        ({"allocation": layers.Dense(2)}, "An `allocation` is a name, a dict from"),
        (
            {"pruning_type": "snip", "criterion": "fisher"},
            "but `criterion` is 'fisher'",
        ),
        ({"pruner_options": ["x"]}, "`pruner_options` is a dict from names to values."),
    ],
)
def test_common_mistake_is_an_error_that_says_what_to_write(settings, message):
    refuses(message, (ValueError, TypeError), **settings)


def test_collections_and_numbers_of_other_types_are_taken():
    config = PruningConfig(
        target_sparsity=np.float64(0.75),
        begin_step=np.int32(3),
        low_memory_usage=np.True_,
        include=(name for name in ("a", "b")),
        exclude=np.array(["c"]),
        layer_types={"Dense": None}.keys(),
        pruning_type="set",
        pruner_options={"seed": np.int64(7), "drop_fraction": np.float32(0.5)},
    )
    assert (config.include, config.exclude) == (("a", "b"), ("c",))
    assert config.layer_types == ("Dense",)
    assert config.low_memory_usage is True
    assert config.pruner_options == {"seed": 7, "drop_fraction": 0.5}
    assert type(config.pruner_options["seed"]) is int
    assert PruningConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    for key in ("exclude", "local_configs", "pruner_options"):
        assert PruningConfig(**{key: None}) == PruningConfig()


def test_options_that_cannot_be_saved_are_an_error():
    refuses(
        "`pruner_options` holds a value that cannot be saved",
        TypeError,
        pruning_type="set",
        pruner_options={"seed": object()},
    )


def test_selector_that_python_cannot_compile_is_an_error():
    for regex in ("a{99999999999999999999}", "(" * 3000):
        refuses("which is no regular expression", include=regex)
        refuses("which is no regular expression", allocation={regex: 0.5})


def test_default_of_a_dict_does_not_contradict_a_setting():
    merged = merged_config({"exclude": "head"}, {"pattern": "2:4"})
    assert merged == PruningConfig(exclude="head", pattern="2:4")


# Signatures.


def test_settings_name_every_field():
    assert set(Settings.__annotations__) == set(FIELDS)


@pytest.mark.parametrize(
    "function",
    [PruningConfig, PruningCallback, PrunedLayer, prune_at_init, report, wrap],
)
def test_signature_shows_every_setting_by_name_type_and_default(function):
    parameters = inspect.signature(function).parameters
    assert "settings" not in parameters
    config = PruningConfig()
    for name, kind in Settings.__annotations__.items():
        parameter = parameters[name]
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.annotation == kind
        same = {name: parameter.default}
        assert dataclasses.replace(config, **same) == config


def test_signature_keeps_the_other_arguments():
    @takes_settings
    def function(model, config=None, *, name="x", **kwargs):
        """Takes a model."""

    names = list(inspect.signature(function).parameters)
    assert names == ["model", "config", "name", *FIELDS, "kwargs"]
    assert function.__doc__ == "Takes a model."


def test_config_that_is_no_dict_is_an_error():
    message = r"A pruning config is given as a dict. Received: \['target_sparsity'\]"
    with pytest.raises(TypeError, match=message):
        PruningConfig.from_dict(["target_sparsity"])


def test_setting_given_under_two_names_is_an_error():
    message = "'start_step' and 'begin_step' are the same setting, given twice."
    with pytest.raises(ValueError, match=message):
        PruningConfig.from_dict({"begin_step": 1, "start_step": 1})


# A value for each of Intel's keys, and what it becomes.
INTEL = {
    "op_names": (["head"], {"include": ("head",)}),
    "excluded_op_names": (["head"], {"exclude": ("head",)}),
    "pruning_op_types": (["Linear"], {"layer_types": ("Dense", "Linear")}),
    "start_step": (5, {"begin_step": 5}),
    "pruning_frequency": (7, {"frequency": 7}),
    "pruning_scope": ("local", {"allocation": "uniform"}),
    "sparsity_decay_type": ("exp", {"schedule": "exp"}),
    "criterion_type": ("random", {"criterion": "random"}),
    "criterion_reduce_type": ("max", {"group_reduction": "max"}),
    "min_sparsity_ratio_per_op": (0.2, {"min_sparsity": 0.2}),
    "max_sparsity_ratio_per_op": (0.98, {"max_sparsity": 0.98}),
    "reg_type": ("group_lasso", {"regularizer": "group_lasso"}),
    "reg_coeff": (0.01, {"regularizer_strength": 0.01}),
    "pruning_configs": (
        [{"op_names": ["head"], "pattern": "4x1"}],
        {"local_configs": [{"include": ["head"], "pattern": "4x1"}]},
    ),
}


@pytest.mark.parametrize("key", INTEL)
def test_key_of_intel_is_mapped(key):
    given, fields = INTEL[key]
    config = PruningConfig.from_dict({key: given})
    assert config == PruningConfig(**fields)
    assert config != PruningConfig()


def test_every_key_of_intel_has_a_test_and_a_field():
    assert sorted(KEY_ALIASES) == sorted(INTEL)
    assert set(KEY_ALIASES.values()) <= set(FIELDS)


@pytest.mark.parametrize("key", FIELDS)
def test_field_is_a_key_of_its_own_name(key):
    value = getattr(PruningConfig(), key)
    assert PruningConfig.from_dict({key: value}) == PruningConfig()


def test_values_that_intel_spells_otherwise_are_mapped():
    def mapped(**values):
        return PruningConfig.from_dict(values)

    assert mapped(pruning_scope="global").allocation.name == "global"
    assert mapped(reg_type="none").regularizer is None
    assert mapped(op_names=[]).include is None
    assert mapped(pruning_op_types=["Conv", "Linear"]).layer_types == (
        "Conv1D",
        "Conv2D",
        "Conv3D",
        "Conv1d",
        "Conv2d",
        "Conv3d",
        "Dense",
        "Linear",
    )


def test_the_dict_given_is_not_changed():
    given = {
        "op_names": [],
        "pattern": "2:4",
        "pruning_scope": "local",
        "pruning_configs": [{"op_names": ["head"], "target_sparsity": 0.2}],
    }
    before = copy.deepcopy(given)
    PruningConfig.from_dict(given)
    assert given == before


def test_the_lists_given_are_not_kept():
    names, locals_given = ["head"], [{"include": "dense_1"}]
    config = PruningConfig(include=names, local_configs=locals_given)
    names.append("dense_10")
    locals_given.append({"include": "dense_10"})
    assert config.include == ("head",)
    assert len(config.local_configs) == 1


def test_as_config_takes_a_config_a_dict_or_nothing():
    config = PruningConfig(target_sparsity=0.5)
    assert as_config(config) is config
    assert as_config({"target_sparsity": 0.5}) == config
    assert as_config(None) == PruningConfig()


# Engines.


@pytest.mark.parametrize(
    ("engine", "pattern"),
    [("litert", "1x4"), ("tflite", "1x4"), ("nvidia", "2:4"), ("keras", "1x1")],
)
def test_engine_chooses_the_pattern(engine, pattern):
    assert str(PruningConfig(for_engine=engine).pattern) == pattern
    assert str(merged_config(PruningConfig(), {"for_engine": "litert"}).pattern) == (
        "1x4"
    )
    config = PruningConfig(pattern=None, for_engine={"name": engine})
    assert str(config.pattern) == pattern


def test_pattern_that_an_engine_rewards_as_much_is_kept():
    config = PruningConfig(for_engine="litert", pattern="1x16")
    assert str(config.pattern) == "1x16"
    changed = dataclasses.replace(config, target_sparsity=0.5)
    assert str(changed.pattern) == "1x16"
    # Whole channels help everywhere, once `shrink` has removed them.
    config = PruningConfig(for_engine="onnxruntime", pattern="channel_groups")
    assert config.capability().rewards == "size and time"


def test_pattern_that_an_engine_rewards_less_is_an_error():
    refuses(
        "`for_engine`: Pattern '4x1' brings less than '1x4': size, not size and time. ",
        for_engine="litert",
        pattern="4x1",
    )
    refuses("Pattern '1x1' brings less", for_engine="litert", pattern="1x1")


@pytest.mark.parametrize("engine", ["tensorflow", "jax", "torch", "onnx"])
def test_engine_that_rewards_no_zeros_is_an_error_that_says_what_to_do(engine):
    refuses("computes with them. Remove whole channels", for_engine=engine)
    refuses('`pattern="channel_groups"` and `shrink`', for_engine=engine)


def test_unknown_engine_is_an_error_that_suggests_one():
    refuses("`for_engine`: Unknown engine 'lite_rt'", for_engine="lite_rt")
    refuses("Did you mean 'litert'?", for_engine="lite_rt")
    refuses('Write `for_engine="litert"`', engine="litert")


def test_local_configs_inherit_the_engine_or_choose_another():
    config = PruningConfig(
        for_engine="litert",
        target_sparsity=0.5,
        local_configs=[
            {"include": "a", "target_sparsity": 0.7},
            {"include": "b", "for_engine": None, "pattern": "1x1"},
            {"include": "c", "for_engine": "nvidia"},
        ],
    )
    patterns = [str(local.pattern) for local in config.local_configs]
    assert patterns == ["1x4", "1x1", "2:4"]
    one = {"include": "a", "for_engine": "litert"}
    local = PruningConfig(local_configs=[one]).local_configs[0]
    assert str(local.pattern) == "1x4"


def test_capability_of_a_config_follows_its_target():
    assert PruningConfig().capability() is None
    config = PruningConfig(for_engine="litert", target_sparsity=0.5)
    assert config.capability().rewards == "size"
    assert config.capability(0.9).rewards == "size and time"


def test_kernels_that_gain_less_stay_dense_with_a_reason():
    model = keras.Sequential(
        [
            layers.Input((6, 4)),
            layers.Conv1D(4, 2, name="conv"),
            layers.Flatten(),
            layers.Dense(6, name="hidden"),
            layers.Dense(2, name="head"),
        ]
    )
    (found,) = select_kernels(model, PruningConfig(for_engine="litert"))
    assert [kernel.path for kernel in found.kernels] == ["hidden/kernel"]
    reasons = {skip.path: skip.reason for skip in found.skipped}
    assert "gains nothing in time from zeros of a Conv1D" in reasons["conv/kernel"]
    assert "the kernel has 6 inputs" in reasons["head/kernel"]
    shown = report(model, for_engine="litert")
    assert shown.capability.rewards == "size"
    # Dense weights bring nothing, so the report says nothing of the engine.
    assert "litert" not in shown.to_text()
    model.layers[2].kernel.assign(np.zeros((20, 6)))
    shown = report(model, for_engine="litert")
    assert shown.capability.rewards == "size and time"
    assert "litert, pattern '1x4': size and time." in shown.to_text(expand=True)
    assert "inference is not faster" not in shown.to_text()


# Frozen.


def test_config_cannot_be_changed():
    config = PruningConfig()
    with pytest.raises(dataclasses.FrozenInstanceError, match="target_sparsity"):
        config.target_sparsity = 0.5
    assert config.target_sparsity == 0.9


def test_config_is_given_by_keyword():
    with pytest.raises(TypeError) as raised:
        PruningConfig(0.5)
    assert str(raised.value) == (
        "Settings are given by name, e.g. `target_sparsity=0.5`. Received: 0.5"
    )


def test_defaults_are_not_shared_or_mutable():
    for field in dataclasses.fields(PruningConfig):
        hash(field.default)
    assert PruningConfig().pruner_options is not PruningConfig().pruner_options
    assert PruningConfig().pattern is not PruningConfig().pattern


def test_equal_configs_have_equal_hashes():
    one = PruningConfig(pattern="4x1", allocation={"head": 0.5}, include="head")
    other = PruningConfig(pattern="4x1", allocation={"head": 0.5}, include=["head"])
    assert one == other
    assert hash(one) == hash(other)
    assert one != PruningConfig(pattern="1x4", allocation={"head": 0.5}, include="head")


def test_replace_makes_a_changed_copy():
    config = PruningConfig(target_sparsity=0.5, frequency=3)
    changed = dataclasses.replace(config, target_sparsity=0.8)
    assert (config.target_sparsity, changed.target_sparsity) == (0.5, 0.8)
    assert changed.frequency == 3


def test_replace_checks_the_changed_copy():
    with pytest.raises(ValueError, match=r"must be in \[0, 1\)"):
        dataclasses.replace(PruningConfig(), target_sparsity=2)


# Saved.


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"pattern": "4x1", "allocation": "uniform", "criterion": "random"},
        {"pattern": "1:4", "schedule": "cos", "begin_step": 3, "end_step": 9},
        {"schedule": {"name": "polynomial", "config": {"power": 2.0}}},
        {"allocation": {"dense_1": 0.5, "head": 0.25}, "group_reduction": "l2"},
        {"allocation": "global_l2", "min_sparsity": 0.1, "max_sparsity": 0.95},
        {"include": ["dense_.*"], "exclude": "dense_10", "layer_types": "Linear"},
        {"regularizer": "group_lasso", "regularizer_strength": 0.01},
        {"low_memory_usage": True, "resume_from_pruned_checkpoint": True},
        {"for_engine": "litert", "local_configs": [{"include": "head"}]},
        {"for_engine": "nvidia", "pattern": "3:4", "target_sparsity": 0.75},
        {
            "target_sparsity": 0.8,
            "local_configs": [
                {"include": "head", "pattern": "2:4"},
                {"layer_types": "Conv2D", "target_sparsity": 0.3},
            ],
        },
    ],
)
def test_config_reloads_from_json(values):
    config = PruningConfig(**values)
    saved = json.loads(json.dumps(config.to_dict()))
    assert sorted(saved) == sorted(FIELDS)
    assert PruningConfig.from_dict(saved) == config


def test_saved_dict_is_a_copy():
    config = PruningConfig(include=["head"], allocation={"head": 0.5})
    saved = config.to_dict()
    saved["include"].append("dense_1")
    saved["allocation"]["config"]["sparsities"]["head"] = 0.1
    assert config == PruningConfig(include=["head"], allocation={"head": 0.5})


def test_layers_are_saved_by_name():
    model = ten_dense()
    config = PruningConfig(include=[model.get_layer("dense_1")])
    saved = PruningConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert saved.include == ("dense_1",)
    assert selected(model, include=saved.include) == ["dense_1/kernel"]


def test_layer_saved_by_name_is_found_again_whatever_its_name():
    model = keras.Sequential(
        [layers.Input((4,)), layers.Dense(4, name="conv+relu"), layers.Dense(2)]
    )
    config = PruningConfig(include=[model.get_layer("conv+relu")])
    saved = PruningConfig.from_dict(config.to_dict())
    assert selected(model, include=saved.include) == ["conv+relu/kernel"]


def test_function_cannot_be_saved():
    message = "`include` holds a function, which cannot be saved. Use a regular expr"
    with pytest.raises(ValueError, match=message):
        PruningConfig(include=lambda kernel: True).to_dict()


# Selectors.


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("dense_1", True),
        ("kernel", True),
        ("block/dense_.", True),
        ("dense_1/kernel", True),
        ("block/dense_1/kernel", True),
        (".*", True),
        ("block|head", True),
        ("dense", False),
        ("ense_1", False),
        ("dense_1/", False),
        ("block/kernel", False),
        ("Block", False),
    ],
)
def test_regular_expression_matches_whole_names(pattern, matches):
    assert matches_path(pattern, "block/dense_1/kernel") is matches


def test_dense_1_does_not_select_dense_10():
    assert selected(ten_dense(), include="dense_1") == ["dense_1/kernel"]
    assert selected(ten_dense(), include="dense_1.*") == [
        "dense_1/kernel",
        "dense_10/kernel",
    ]


def test_selectors_are_layers_names_or_functions():
    model = ten_dense()
    assert selected(model, include=model.layers[1]) == ["dense_10/kernel"]
    assert selected(model, include=lambda k: k.layout.outputs > 2) == [
        "dense_1/kernel",
        "head/kernel",
    ]
    assert selected(model, include=["head", model.layers[0]]) == [
        "dense_1/kernel",
        "head/kernel",
    ]


def test_selected_model_means_all_its_layers():
    inner = keras.Sequential(
        [layers.Input((4,)), layers.Dense(3, name="x"), layers.Dense(3, name="y")],
        name="inner",
    )
    model = keras.Sequential([layers.Input((4,)), inner, layers.Dense(2, name="head")])
    assert selected(model, include=inner) == ["inner/x/kernel", "inner/y/kernel"]
    assert selected(model, exclude=inner) == ["head/kernel"]


def test_exclude_wins_over_include():
    model = ten_dense()
    (selection,) = select_kernels(
        model, PruningConfig(include="dense_.*", exclude="dense_10")
    )
    assert [kernel.path for kernel in selection.kernels] == ["dense_1/kernel"]
    assert [(s.path, s.reason) for s in selection.skipped] == [
        ("dense_10/kernel", "excluded by `exclude`"),
        ("head/kernel", "not selected by `include` or `layer_types`"),
    ]


@pytest.mark.parametrize("key", ["include", "exclude"])
def test_selector_that_matches_nothing_is_an_error_that_names_the_nearest(key):
    with pytest.raises(ValueError) as raised:
        selected(ten_dense(), **{key: ["head", "dense10"]})
    assert str(raised.value) == (
        f"`{key}` has 'dense10', which matches no prunable kernel. Did you mean "
        "'dense_10'? Kernels: dense_1/kernel, dense_10/kernel, head/kernel"
    )


def test_layer_of_another_model_matches_nothing():
    stranger = layers.Dense(2, name="stranger")
    stranger.build((None, 4))
    with pytest.raises(ValueError, match="stranger.*which matches no prunable kernel"):
        selected(ten_dense(), include=stranger)


def test_function_that_selects_nothing_is_an_error():
    with pytest.raises(ValueError, match="lambda.*which matches no prunable kernel"):
        selected(ten_dense(), exclude=lambda kernel: False)


def test_layer_types_select_by_class_and_base_class():
    class Projection(layers.Dense):
        pass

    model = keras.Sequential(
        [
            layers.Input((6, 3)),
            layers.Conv1D(4, 2, name="conv"),
            layers.Dense(4, name="dense"),
            Projection(2, name="projection"),
        ]
    )
    assert selected(model, layer_types="Conv1D") == ["conv/kernel"]
    assert selected(model, layer_types=["Linear"]) == [
        "dense/kernel",
        "projection/kernel",
    ]
    assert selected(model, layer_types=["Projection"]) == ["projection/kernel"]
    assert selected(model, layer_types=["Conv"], exclude="dense") == ["conv/kernel"]


def test_layer_types_that_are_not_there_are_an_error():
    message = (
        "`layer_types` has Conv2D, but the prunable layers are of the classes: Dense."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        selected(ten_dense(), layer_types="Conv2D")


def test_embedding_is_selected_by_its_type():
    model = keras.Sequential(
        [
            layers.Input((5,), dtype="int32"),
            layers.Embedding(10, 4, name="table"),
            layers.Dense(2, name="head"),
        ]
    )
    assert selected(model) == ["head/kernel"]
    assert selected(model, layer_types=["Embedding"]) == ["table/embeddings"]


# Local configs.


def test_local_configs_take_their_kernels_from_the_main_one():
    config = PruningConfig(
        target_sparsity=0.5,
        local_configs=[
            {"include": "dense_1", "target_sparsity": 0.25},
            {"include": "head", "pattern": "3x1", "target_sparsity": 0.5},
        ],
    )
    main, first, second = create_pruners(config, ten_dense())
    assert [list(p.masks) for p in (main, first, second)] == [
        ["dense_10/kernel"],
        ["dense_1/kernel"],
        ["head/kernel"],
    ]
    assert first.target_sparsity_ratio == 0.25
    assert str(second.pattern) == "3x1"


def test_local_configs_that_take_all_leave_no_main_one():
    config = PruningConfig(local_configs=[{"include": ".*", "target_sparsity": 0.25}])
    (only,) = create_pruners(config, ten_dense())
    assert only.target_sparsity_ratio == 0.25
    assert only.num_weights == 30


def test_local_dict_keeps_what_it_does_not_change():
    config = PruningConfig(
        target_sparsity=0.5,
        schedule="linear",
        frequency=7,
        include="dense_.*",
        exclude="head",
        local_configs=[{"include": "head", "criterion": "random"}],
    )
    (local,) = config.local_configs
    assert local == PruningConfig(
        target_sparsity=0.5,
        schedule="linear",
        frequency=7,
        include="head",
        criterion="random",
    )


def test_local_dict_with_another_pattern_keeps_a_target_that_it_can_meet():
    config = PruningConfig(
        target_sparsity=0.5, local_configs=[{"include": "head", "pattern": "4x1"}]
    )
    assert config.local_configs[0].target_sparsity == 0.5


def test_local_dict_of_n_of_m_under_a_default_target_takes_its_own():
    config = PruningConfig(local_configs=[{"include": "head", "pattern": "2:4"}])
    assert config.local_configs[0].target_sparsity == 0.5


def test_local_configs_that_overlap_are_an_error_that_names_both():
    config = PruningConfig(
        local_configs=[
            {"include": "head"},
            {"include": "dense_1"},
            {"include": "dense_.*"},
        ]
    )
    message = (
        "Local configs 1 and 2 both select 'dense_1/kernel'. Each kernel belongs to "
        "one config: exclude it from one of them."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        select_kernels(ten_dense(), config)


def test_local_config_that_would_take_all_is_an_error():
    refuses(
        "`local_configs[1]`: It must name its layers by `include` (op_names) or "
        "`layer_types`, else it would take them all.",
        local_configs=[{"include": "head"}, {"target_sparsity": 0.3}],
    )


def test_local_config_of_another_type_is_an_error():
    message = (
        "`local_configs[0]`: A local config is a PruningConfig or a dict. Received: "
    )
    refuses(message, TypeError, local_configs=["head"])


def test_local_config_with_local_configs_is_an_error():
    nested = PruningConfig(include="dense.*", local_configs=[{"include": "dense_1"}])
    message = "A local config has no local configs of its own."
    refuses(message, local_configs=[nested])


def test_local_config_with_an_unknown_key_is_an_error():
    refuses(
        "Unknown pruning config key 'patern'. Did you mean 'pattern'?",
        local_configs=[{"include": "head", "patern": "4x1"}],
    )


# Nothing to prune.


def test_model_in_which_nothing_fits_the_pattern_is_an_error_that_says_why():
    with pytest.raises(ValueError) as raised:
        KerasBasePruner(PruningConfig(pattern="5x1", exclude="head"), ten_dense())
    assert str(raised.value) == (
        "Nothing in the model can be pruned with this config.\n"
        "  head/kernel (2, 3): excluded by `exclude`\n"
        "  dense_1/kernel (4, 4): pattern '5x1' needs an output axis divisible by 5, "
        "but it has 4 outputs\n"
        "  dense_10/kernel (4, 2): pattern '5x1' needs an output axis divisible by 5, "
        "but it has 2 outputs"
    )


def test_kernel_that_does_not_fit_the_pattern_is_listed_as_skipped():
    pruner = KerasBasePruner(PruningConfig(pattern="4x1"), ten_dense())
    assert list(pruner.masks) == ["dense_1/kernel"]
    assert [skipped.path for skipped in pruner.skipped] == [
        "dense_10/kernel",
        "head/kernel",
    ]
    assert pruner.num_weights == 16


# Settings on top of a config.


@pytest.mark.parametrize(
    "config",
    [{"target_sparsity": 0.5, "exclude": "head"}, None],
)
def test_settings_win_over_a_config(config):
    made = None if config is None else PruningConfig(**config)
    for given in (config, made):
        merged = merged_config(given, {"op_names": ["dense_1"], "pattern": "2x1"})
        expected = {"include": "dense_1", "pattern": "2x1"} | (config or {})
        assert merged == PruningConfig(**expected)
    assert made is None or (str(made.pattern), made.include) == ("1x1", None)


def test_no_settings_leave_a_config():
    config = PruningConfig(target_sparsity=0.5)
    assert merged_config(config, {}) == config
    assert merged_config(None, {}) == PruningConfig()


def test_unknown_setting_on_top_of_a_config_is_an_error():
    with pytest.raises(ValueError, match="Unknown pruning config key 'patern'"):
        merged_config(PruningConfig(), {"patern": "2:4"})


def test_prune_at_init_takes_settings_on_top_of_a_config():
    config = PruningConfig(criterion="magnitude", target_sparsity=0.5)
    pruned = prune_at_init(
        ten_dense(), config=config, op_names=["dense_1"], verbose=False
    )
    zeros = [(np.asarray(w) == 0).sum() for w in pruned.get_weights()[::2]]
    assert zeros == [8, 0, 0]
