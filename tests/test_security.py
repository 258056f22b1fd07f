"""A model or a config from a stranger runs no code, and imports nothing by name."""

import ast
import json
import pathlib
import sys
import zipfile

import keras
import pytest
from conftest import build_mlp, compile_mlp

import keras_pruner
from keras_pruner import PrunedLayer, PruningConfig, PruningOptimizer

PACKAGE = pathlib.Path(keras_pruner.__file__).parent
EXECUTED = []


def test_the_package_holds_nothing_that_runs_what_it_reads():
    banned_modules = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
    banned_calls = {"eval", "exec", "compile", "__import__", "import_module"}
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [(node.module or "").split(".")[0]]
            elif isinstance(node, ast.Call):
                called = node.func
                name = getattr(called, "id", getattr(called, "attr", None))
                # `model.compile` and `re.compile` are others.
                # The command line imports what its user names by `--import`.
                is_asked_for = path.parts[-2:] == ("cli", "files.py")
                is_own = ast.unparse(node).endswith("import_module('keras_pruner.api')")
                if (
                    name in banned_calls
                    and (isinstance(called, ast.Name) or name == "import_module")
                    and not (is_asked_for or is_own)
                ):
                    found.append(f"{path.name}: {name}")
                for keyword in node.keywords:
                    is_off = ast.unparse(keyword.value) == "False"
                    # A copy is made of a model in memory, not of a file; or of a file
                    # that was just written from it.
                    copies = ("cloning.py", "edit.py", "rebuild.py", "keras_archive.py")
                    is_copy = path.name in copies and keyword.arg == "safe_mode"
                    is_safe = keyword.arg == "allow_pickle" and is_off
                    if is_copy or is_safe:
                        continue
                    if keyword.arg in ("allow_pickle", "safe_mode"):
                        found.append(f"{path.name}: {keyword.arg}")
            found += [f"{path.name}: {n}" for n in set(names) & banned_modules]
    assert found == []


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module that says so when it is imported, and what it defines is called."""
    (tmp_path / "stranger.py").write_text(
        "import test_security\n"
        "test_security.EXECUTED.append('imported')\n"
        "def run(*args, **kwargs):\n"
        "    test_security.EXECUTED.append('run')\n"
        "class Run:\n"
        "    def __init__(self, *args, **kwargs):\n"
        "        run()\n"
        "    from_config = classmethod(lambda cls, config: cls())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    EXECUTED.clear()
    yield "stranger"
    assert EXECUTED == []
    assert "stranger" not in sys.modules


def hostile(module, name):
    return {
        "module": module,
        "class_name": name,
        "config": {},
        "registered_name": f"{module}>{name}",
    }


FIELDS = ("criterion", "pattern", "allocation", "schedule", "regularizer")
FIELDS += ("pruning_type", "include", "pruner_options")


@pytest.mark.parametrize(
    "field", [*FIELDS, "pruning_type", "include", "pruner_options"]
)
def test_configs_call_and_import_nothing(field, module):
    for value in (
        f"{module}.run",
        f"{module}:run",
        hostile(module, "Run"),
        {"name": f"{module}.run", "config": {}},
        {"name": "__import__", "config": {"name": module}},
        {"name": ["magnitude"], "config": []},
        [[[[]]]],
        10**400,
    ):
        try:
            config = PruningConfig.from_dict({field: value})
            keras_pruner.create_pruners(config, build_mlp())
        except (ValueError, TypeError):
            continue
        # Names that are merely data: a regular expression, an option's value.
        assert field in ("include", "allocation", "pruner_options"), value


def test_a_config_nested_without_end_is_an_error():
    config = {}
    for _ in range(5_000):
        config = {"local_configs": [config]}
    with pytest.raises(ValueError, match="no local configs of its own"):
        PruningConfig.from_dict(config)
    while config:
        config = config.pop("local_configs")[0]


@pytest.mark.parametrize("name", ["run", "Run"])
def test_parts_of_a_wrapper_or_optimizer_are_not_imported(name, module):
    with pytest.raises((TypeError, ValueError)):
        PrunedLayer.from_config({"layer": hostile(module, name)})
    with pytest.raises((TypeError, ValueError)):
        PruningOptimizer.from_config({"inner_optimizer": hostile(module, name)})
    with pytest.raises((TypeError, ValueError)):
        PruningOptimizer.from_config({"inner_optimizer": {**hostile("os", "system")}})


@pytest.mark.parametrize(
    "change",
    [
        {"masked_variables": [99]},
        {"masked_variables": ["0; import os"]},
        {"num_pruners": 10**9},
        {"num_pruners": "2"},
        {"num_pruners": -1},
        {"run": [1]},
        {"states": 3},
        {"states": [[0, "memory", "x", {"a": 1}]]},
        {"states": [[0, "memory", [-4], "float32"]]},
        {"states": [[0, "memory", [4], "os.system"]]},
        # 4 TB, and 8 GB.
        {"states": [[0, "memory", [10**12], "float32"]]},
        {"states": [[0, "memory", [2**31], "float32"]]},
        {"states": [[0, "memory", [10**6, 10**6], "float32"]]},
        {"states": [[0, "memory", [10**400], "float32"]]},
        {"unknown": 1},
    ],
)
def test_hostile_numbers_of_an_optimizer_are_errors(change):
    model = build_mlp()
    config = PruningOptimizer(keras.optimizers.SGD(), [0]).get_config() | change
    with pytest.raises((ValueError, TypeError)):
        PruningOptimizer.from_config(config).build(model.trainable_variables)


def rewrite(path, change):
    """Changes the config in a `.keras` file."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    change(config)
    members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("where", ["layer", "optimizer"])
def test_safe_mode_refuses_a_hostile_archive(where, module, tmp_path):
    path = str(tmp_path / "model.keras")
    wrapped = keras.Sequential(
        [keras.Input((16,)), PrunedLayer(keras.layers.Dense(3, name="inner"))]
    )
    optimizer = PruningOptimizer(keras.optimizers.SGD(), [0])
    optimizer.build(wrapped.trainable_variables)
    model = compile_mlp(wrapped, optimizer)
    model.save(path)
    keras.models.load_model(path)

    # Keras saves the bytes of a lambda's code.
    lambda_layer = keras.saving.serialize_keras_object(
        keras.layers.Lambda(lambda x: EXECUTED.append("lambda") or x)
    )

    def change(config):
        if where == "layer":
            wrapper = config["config"]["layers"][-1]["config"]
            wrapper["layer"] = lambda_layer
        else:
            optimizer = config["compile_config"]["optimizer"]["config"]
            optimizer["inner_optimizer"] = hostile(module, "Run")

    rewrite(path, change)
    with pytest.raises((ValueError, TypeError)):
        keras.models.load_model(path)


def test_functions_are_not_written_to_a_config():
    for settings in (
        {"include": lambda kernel: True},
        {"allocation": lambda kernel: 0.5},
    ):
        with pytest.raises(ValueError, match="function"):
            PruningConfig(**settings).to_dict()
