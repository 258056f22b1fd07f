"""Kernels are found once and divided over configs; each has one fate and one reason."""

import keras
import pytest
from conftest import build_mlp
from keras import layers

from keras_pruner import (
    KerasBasePruner,
    PruningCallback,
    PruningConfig,
    create_pruners,
    find_kernels,
    report,
)
from keras_pruner.kernels import find, select_kernels

EMBEDDING = "embeddings are pruned only when asked for: add 'Embedding' to layer_types"


def model_of_five():
    """An embedding, and Dense layers of 6 x 8, 8 x 8 (frozen), 8 x 5 and 5 x 3."""
    return keras.Sequential(
        [
            keras.Input((2,)),
            layers.Embedding(10, 3, name="words"),
            layers.Flatten(),
            layers.Dense(8, name="first"),
            layers.Dense(8, name="frozen", trainable=False),
            layers.Dense(5, name="odd"),
            layers.Dense(3, name="head"),
        ]
    )


CONFIG = PruningConfig(
    target_sparsity=0.5,
    exclude="head",
    local_configs=[{"include": ["first", "odd"], "pattern": "4x1"}],
)


def reasons(selections):
    return {s.path: s.reason for part in selections for s in part.skipped}


def test_every_kernel_has_one_reason_under_local_configs():
    selections = select_kernels(model_of_five(), CONFIG)
    # The local configs take all that can be pruned.
    assert [[k.path for k in part.kernels] for part in selections] == [["first/kernel"]]
    assert reasons(selections) == {
        "words/embeddings": EMBEDDING,
        "frozen/kernel": "frozen: the layer has trainable=False",
        "head/kernel": "excluded by `exclude`",
        "odd/kernel": (
            "pattern '4x1' needs an output axis divisible by 4, but it has 5 outputs"
        ),
    }


def test_report_and_callback_tell_the_same_reasons():
    model = model_of_five()
    model.compile("sgd", "mse", jit_compile=False)
    expected = reasons(select_kernels(model, CONFIG))
    callback = PruningCallback(CONFIG, verbose=False)
    x, y = keras.ops.ones((4, 2), "int32"), keras.ops.zeros((4, 3))
    model.fit(x, y, verbose=0, callbacks=[callback])
    told = {skip.path: skip.reason for skip in callback.skipped}
    assert told == expected
    rows = report(model, CONFIG).rows()
    assert {row["path"]: row["skipped"] for row in rows if row["skipped"]} == expected


def test_a_kernel_that_a_local_config_excludes_stays_with_the_main_one():
    config = PruningConfig(
        target_sparsity=0.5,
        local_configs=[
            {"include": ["first", "odd"], "exclude": "odd", "pattern": "4x1"}
        ],
    )
    main, local = select_kernels(model_of_five(), config)
    assert [kernel.path for kernel in main.kernels] == ["odd/kernel", "head/kernel"]
    assert [kernel.path for kernel in local.kernels] == ["first/kernel"]
    assert main.config.local_configs == () and local.skipped == ()


def test_configs_of_pruners_are_plain():
    pruners = create_pruners(
        {"local_configs": [{"include": "head", "target_sparsity": 0.5}]}, build_mlp()
    )
    for pruner in pruners:
        assert PruningConfig.from_dict(pruner.config.to_dict()) == pruner.config


def test_kernels_are_found_once_for_all_pruners(monkeypatch):
    calls = []
    own_variables = find.own_variables

    def count(layer):
        calls.append(layer.name)
        return own_variables(layer)

    monkeypatch.setattr(find, "own_variables", count)
    model = build_mlp()
    local = [{"include": "head", "target_sparsity": 0.5}]
    create_pruners({"local_configs": local}, model)
    assert calls.count("hidden") == calls.count("head") == 1


def test_embeddings_are_pruned_where_a_config_asks_for_them():
    local = {"include": "words", "layer_types": "Embedding", "target_sparsity": 0.5}
    main, asked = create_pruners({"local_configs": [local]}, model_of_five())
    assert [kernel.path for kernel in asked.kernels] == ["words/embeddings"]
    assert "words/embeddings" not in [skip.path for skip in main.skipped]
    assert "words/embeddings" not in main.masks


def test_find_kernels_lists_embeddings_as_skipped_unless_asked():
    model = model_of_five()
    found = find_kernels(model)
    assert [(s.path, s.reason) for s in found.skipped] == [
        ("words/embeddings", EMBEDDING)
    ]
    asked = find_kernels(model, embeddings=True)
    assert asked.kernels[0].path == "words/embeddings" and asked.skipped == ()


def test_a_single_pruner_refuses_local_configs():
    with pytest.raises(ValueError, match="has one config.*call `create_pruners"):
        KerasBasePruner(CONFIG, model_of_five())
