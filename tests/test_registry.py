"""The registry that every family shares, and components of a user's own."""

import keras
import numpy as np
import pytest
from conftest import value_of
from keras import layers, ops

from keras_pruner import (
    ALLOCATIONS,
    CRITERIA,
    PATTERNS,
    PRUNERS,
    SCHEDULES,
    Allocation,
    Criterion,
    KerasBasePruner,
    Pattern,
    PruningConfig,
    Schedule,
    create_pruners,
    register_allocation,
    register_criterion,
    register_pattern,
    register_pruner,
    register_schedule,
)
from keras_pruner.checks import did_you_mean
from keras_pruner.components import REGULARIZERS
from keras_pruner.registry import Component, Registry

FAMILIES = (ALLOCATIONS, CRITERIA, PATTERNS, PRUNERS, REGULARIZERS, SCHEDULES)


@pytest.fixture
def own_names(monkeypatch):
    """Forgets the names that a test registers."""
    for registry in FAMILIES:
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))


class Fruit(Component):
    """A family for these tests."""

    def __init__(self, sweetness=1):
        self.sweetness = sweetness

    def get_config(self):
        return {"sweetness": self.sweetness}


@pytest.fixture
def fruits():
    """Apple, also known as a pomme, and Pear."""
    registry = Registry("fruit", Fruit)

    @registry.register("apple", "pomme")
    class Apple(Fruit):
        pass

    @registry.register("pear")
    class Pear(Fruit):
        pass

    return registry


# Registering.


def test_registry_is_a_mapping_from_names_to_classes(fruits):
    assert list(fruits) == ["apple", "pomme", "pear"]
    assert len(fruits) == 3
    assert "pear" in fruits
    assert "plum" not in fruits
    assert fruits["apple"] is fruits["pomme"]
    assert repr(fruits) == "Registry(fruit: apple, pomme, pear)"


def test_registered_class_is_returned_with_its_first_name(fruits):
    assert fruits["pomme"].name == "apple"

    class Plum(Fruit):
        pass

    assert fruits.register("plum")(Plum) is Plum
    assert Plum.name == "plum"


def test_registry_is_read_only(fruits):
    with pytest.raises(TypeError, match="does not support item assignment"):
        fruits["plum"] = Fruit


def test_name_that_is_taken_is_an_error(fruits):
    class Plum(Fruit):
        pass

    taken = f"{fruits['pear'].__module__}.{fruits['pear'].__qualname__}"
    message = f"The fruit name 'pear' is already taken by `{taken}`. Choose another."
    with pytest.raises(ValueError) as raised:
        fruits.register("plum", "pear")(Plum)
    assert str(raised.value) == message
    # Refused as a whole.
    assert list(fruits) == ["apple", "pomme", "pear"]
    assert Plum.name is None


def test_class_defined_again_replaces_itself(fruits):
    # As a notebook cell that is run twice does.
    def define():
        @fruits.register("plum")
        class Plum(Fruit):
            pass

        return Plum

    first, second = define(), define()
    assert first is not second
    assert fruits["plum"] is second


@pytest.mark.parametrize("value", [int, "Plum", lambda: None])
def test_class_of_another_family_is_an_error(fruits, value):
    message = "A fruit must be a class that extends `Fruit`. Received: "
    with pytest.raises(TypeError, match=message):
        fruits.register("plum")(value)
    assert "plum" not in fruits


@pytest.mark.parametrize("names", [(), ("",), (3,), ("plum", None)])
def test_registering_without_names_is_an_error(fruits, names):
    message = "A fruit is registered under one or more non-empty strings. Received: "
    with pytest.raises(ValueError, match=message):
        fruits.register(*names)


# Getting.


def test_get_takes_a_name_a_dict_an_instance_or_none(fruits):
    apple = fruits.get("apple")
    assert type(apple) is fruits["apple"]
    assert fruits.get("pomme") == apple
    assert fruits.get(apple) is apple
    assert fruits.get(None, default="pear") == fruits.get("pear")
    assert fruits.get({"name": "apple"}) == apple
    sweet = fruits.get({"name": "apple", "config": {"sweetness": 3}})
    assert sweet.sweetness == 3
    assert sweet != apple


def test_get_of_a_dict_leaves_it_as_it_is(fruits):
    given = {"name": "apple", "config": {"sweetness": 3}}
    fruits.get(given)
    assert given == {"name": "apple", "config": {"sweetness": 3}}


def test_serialize_makes_what_get_takes(fruits):
    sweet = fruits.get({"name": "pomme", "config": {"sweetness": 3}})
    saved = fruits.serialize(sweet)
    assert saved == {"name": "apple", "config": {"sweetness": 3}}
    assert fruits.get(saved) == sweet


def test_unknown_name_is_an_error_that_names_the_nearest(fruits):
    with pytest.raises(ValueError) as raised:
        fruits.get("aple")
    assert str(raised.value) == (
        "Unknown fruit 'aple'. Known: apple, pomme, pear. Did you mean 'apple'?"
    )


def test_unknown_name_with_nothing_near_suggests_nothing(fruits):
    with pytest.raises(ValueError) as raised:
        fruits.get("quince")
    assert str(raised.value) == "Unknown fruit 'quince'. Known: apple, pomme, pear."


def test_unknown_name_in_a_dict_is_an_error(fruits):
    with pytest.raises(ValueError, match="Unknown fruit 'aple'.*'apple'"):
        fruits.get({"name": "aple", "config": {}})


@pytest.mark.parametrize(
    "identifier",
    [{}, {"config": {}}, {"name": "apple", "sweetness": 3}, {"class_name": "apple"}],
)
def test_malformed_dict_is_an_error(fruits, identifier):
    with pytest.raises(ValueError) as raised:
        fruits.get(identifier)
    assert str(raised.value) == (
        "A fruit given as a dict has the keys 'name' and 'config'. "
        f"Received: {identifier}"
    )


@pytest.mark.parametrize(
    ("identifier", "kind"), [(3, "int"), (None, "NoneType"), (["apple"], "list")]
)
def test_identifier_of_another_type_is_an_error(fruits, identifier, kind):
    with pytest.raises(TypeError) as raised:
        fruits.get(identifier)
    assert str(raised.value) == (
        "A fruit is given by name, as a dict, or as an instance of `Fruit`. "
        f"Received: {identifier!r} of type {kind}"
    )


@pytest.mark.parametrize("config", [5, [], "sweetness", True])
def test_config_of_a_dict_that_is_no_dict_is_an_error(fruits, config):
    message = "The 'config' of fruit 'apple' is a dict of arguments. Received: "
    with pytest.raises(TypeError, match=message):
        fruits.get({"name": "apple", "config": config})


def test_unknown_argument_is_an_error_that_names_component_and_nearest(fruits):
    with pytest.raises(ValueError) as raised:
        fruits.get({"name": "apple", "config": {"sweetnes": 3}})
    assert str(raised.value) == (
        "Fruit 'apple': got an unexpected keyword argument 'sweetnes'. Did you mean "
        "'sweetness'? Its arguments: sweetness."
    )


def test_missing_argument_is_an_error_that_names_it(fruits):
    @fruits.register("plum")
    class Plum(Fruit):
        def __init__(self, stone):
            self.stone = stone

    message = "Fruit 'plum': missing a required argument: 'stone'. Its arguments: stone"
    for given in ("plum", {"name": "plum"}):
        with pytest.raises(ValueError, match=message):
            fruits.get(given)


def test_error_in_an_argument_names_the_component():
    message = "Schedule 'polynomial': `power` must be a number. Received: '3'"
    with pytest.raises(TypeError, match=message):
        SCHEDULES.get({"name": "polynomial", "config": {"power": "3"}})


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("magnitud", " Did you mean 'magnitude'?"),
        ("Magnitude", " Did you mean 'magnitude'?"),
        ("top-kast", " Did you mean 'top_kast'?"),
        ("poly", " Did you mean 'polynomial'?"),
        ("polynomial_decay_of_another", " Did you mean 'polynomial'?"),
        ("xyz", ""),
        (7, ""),
        (["magnitude"], ""),
    ],
)
def test_suggestion_of_the_nearest_name(name, suggestion):
    known = ["magnitude", "random", "top_kast", "polynomial"]
    assert did_you_mean(name, known) == suggestion


# Components.


def test_components_are_equal_by_class_and_config(fruits):
    apple, pear = fruits["apple"], fruits["pear"]
    assert apple(2) == apple(2)
    assert hash(apple(2)) == hash(apple(2))
    assert apple(2) != apple(3)
    assert apple(2) != pear(2)
    assert apple(2) != "apple"


def test_component_prints_its_arguments(fruits):
    assert repr(fruits.get({"name": "apple", "config": {"sweetness": 3}})) == (
        "Apple(sweetness=3)"
    )
    assert repr(CRITERIA.get("magnitude")) == "Magnitude()"


# Patterns and custom allocations are built from what they say instead.
BY_NAME = [
    (registry, name)
    for registry in FAMILIES
    for name in registry
    if registry is not PRUNERS and "{" not in name and name != "custom"
]


@pytest.mark.parametrize(
    ("registry", "name"), BY_NAME, ids=[f"{r.family}-{n}" for r, n in BY_NAME]
)
def test_every_registered_name_reloads_from_its_serialized_form(registry, name):
    component = registry.get(name)
    saved = registry.serialize(component)
    assert registry[saved["name"]] is type(component) is registry[name]
    assert registry.get(saved) == component


@pytest.mark.parametrize(
    ("registry", "names"),
    [
        (ALLOCATIONS, {"custom", "erk", "global", "global_l2", "uniform"}),
        (CRITERIA, {"magnitude", "random"}),
        (PATTERNS, {"1x1", "1xchannel", "channelx1", "{n}:{m}", "{n}x{m}"}),
        (PRUNERS, {"basic"}),
        (REGULARIZERS, {"group_lasso", "l1", "l2"}),
        (SCHEDULES, {"constant", "cos", "cube", "exp", "linear", "polynomial"}),
    ],
    ids=lambda value: getattr(value, "family", None),
)
def test_family_holds_the_names_that_are_documented(registry, names):
    assert names - set(registry) == set()


# Components of a user's own.


def dense_of(*kernels):
    """A model of dense layers a, b, ... with the given kernels."""
    model = keras.Sequential(
        [layers.Input((len(kernels[0]),))]
        + [
            layers.Dense(np.shape(kernel)[1], use_bias=False, name=name)
            for name, kernel in zip("abc", kernels, strict=False)
        ]
    )
    model.set_weights([np.array(kernel, "float32") for kernel in kernels])
    return model


def masks_after(pruner, sparsity):
    pruner.update_masks(sparsity)
    return [value_of(mask).astype(int).tolist() for mask in pruner.masks.values()]


def test_registered_criterion_prunes_by_its_scores(own_names):
    @register_criterion("distance_from_one")
    class DistanceFromOne(Criterion):
        def scores(self, weight, kernel):
            return ops.abs(ops.cast(weight, "float32") - 1)

    config = PruningConfig(criterion="distance_from_one", target_sparsity=0.5)
    pruner = KerasBasePruner(config, dense_of([[0.0, 1.0], [2.5, 1.5]]))
    assert value_of(pruner.scores["a/kernel"]).tolist() == [[1, 0], [1.5, 0.5]]
    assert masks_after(pruner, 0.5) == [[[1, 0], [1, 0]]]
    assert pruner.current_sparsity_ratio == 0.5


def test_registered_pattern_prunes_its_groups(own_names):
    @register_pattern("checker")
    class Checker(Pattern):
        """Two groups: the even and the odd squares of a board."""

        def num_groups(self, layout):
            return 2

        def group_size(self, layout):
            return layout.size // 2

        def group_scores(self, scores, layout, reduction):
            even = self.spread(np.array([1.0, 0.0], "float32"), layout)
            return ops.stack([ops.sum(scores * even), ops.sum(scores * (1 - even))])

        def spread(self, values, layout):
            rows, columns = np.indices((layout.rows, layout.outputs))
            return ops.take(ops.convert_to_tensor(values), (rows + columns) % 2)

    config = PruningConfig(pattern="checker", target_sparsity=0.5)
    pruner = KerasBasePruner(config, dense_of([[9.0, 1.0], [1.0, 9.0]]))
    assert str(pruner.pattern) == "checker"
    assert masks_after(pruner, 0.5) == [[[1, 0], [0, 1]]]


def test_registered_schedule_sets_the_sparsity_of_each_update(own_names):
    @register_schedule("staircase")
    class Staircase(Schedule):
        """Half the way at once, the rest at the end."""

        def sparsity(self, progress, initial, target):
            return (initial + target) / 2

    config = PruningConfig(
        schedule="staircase",
        target_sparsity=0.75,
        initial_sparsity=0.25,
        begin_step=1,
        end_step=3,
        frequency=1,
        allocation="uniform",
    )
    pruner = KerasBasePruner(config, dense_of([[1.0, 2.0], [3.0, 4.0]]))
    reached = []
    for step in range(5):
        pruner.on_step_begin(step)
        pruner.on_after_optimizer_step()
        reached.append(pruner.current_sparsity_ratio)
    assert reached == [0.0, 0.5, 0.5, 0.75, 0.75]


def test_registered_allocation_divides_the_target(own_names):
    @register_allocation("first_denser")
    class FirstDenser(Allocation):
        def relative_densities(self, plans):
            return [3.0] + [1.0] * (len(plans) - 1)

    config = PruningConfig(allocation="first_denser", target_sparsity=0.5)
    square = [[1.0, 2.0], [3.0, 4.0]]
    pruner = KerasBasePruner(config, dense_of(square, square))
    # Densities 0.75 and 0.25.
    assert masks_after(pruner, 0.5) == [[[0, 1], [1, 1]], [[0, 0], [0, 1]]]


def test_registered_pruner_is_made_for_its_pruning_type(own_names):
    @register_pruner("lazy")
    class LazyPruner(KerasBasePruner):
        """Never prunes."""

        def update_masks(self, sparsity):
            pass

    (pruner,) = create_pruners({"pruning_type": "lazy"}, dense_of([[1.0, 2.0]]))
    assert type(pruner) is LazyPruner
    assert masks_after(pruner, 0.9) == [[[1, 1]]]


def test_names_of_a_test_are_forgotten_afterwards():
    assert "distance_from_one" not in CRITERIA
    assert "checker" not in PATTERNS
    assert "staircase" not in SCHEDULES
    assert "first_denser" not in ALLOCATIONS
    assert "lazy" not in PRUNERS


def test_criterion_without_scores_says_what_to_define():
    class Blank(Criterion):
        pass

    with pytest.raises(NotImplementedError, match="Blank must define `scores`."):
        Blank().scores(None, None)
