"""The command line: exit codes, messages, files, and the help without Keras."""

import json
import os
import pathlib
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from conftest import build_mlp, compile_mlp, set_kernel, slow_where_compiled
from keras import layers

import keras_pruner
from keras_pruner import PrunedLayer, wrap
from keras_pruner.cli import COMMANDS, main
from keras_pruner.cli.files import print_json

ROOT = pathlib.Path(keras_pruner.__file__).parent.parent


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a model, and samples and labels for it."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    x = generator.random((40, 16)).astype("float32")
    y = generator.integers(0, 3, 40)
    np.save("x.npy", x)
    np.save("y.npy", y)
    np.savez("xy.npz", x=x, y=y)
    compile_mlp(metrics=["accuracy"]).save("model.keras")
    return tmp_path


def run(text, capsys):
    """Returns the exit code of a command, its output and its errors."""
    code = main(text.split())
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def python(*arguments, path, **environment):
    """Runs a fresh Python process."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{path}{os.pathsep}{ROOT}"} | environment,
    )


@pytest.fixture
def no_keras(tmp_path):
    """A folder with modules in place of Keras and the backends, which only fail."""
    for name in ("keras", "tensorflow", "jax", "torch", "numpy"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} is imported')")
    return tmp_path


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_and_usage_need_neither_keras_nor_a_backend(command, no_keras):
    found = python(
        *f"-m keras_pruner {command} --help".split(), path=no_keras, COLUMNS="100"
    )
    assert (found.returncode, found.stderr) == (0, "")
    assert f"usage: keras-pruner {command}".strip() in found.stdout
    assert "Exit codes: 0 done, 1 an error" in found.stdout


def test_arguments_are_checked_without_keras(no_keras):
    script = no_keras / "keras-pruner"
    script.write_text("from keras_pruner.cli import run; run()")
    found = python(script, *"inspect none.keras".split(), path=no_keras)
    assert found.returncode == 1
    assert found.stderr == "error: There is no file 'none.keras'.\n"
    found = python(*"-m keras_pruner prune".split(), path=no_keras)
    assert found.returncode == 2
    assert "required: MODEL, -o/--output, --target-sparsity" in found.stderr
    # A library imports Keras at once, as the next test needs it.
    found = python("-c", "import keras_pruner", path=no_keras)
    assert "keras is imported" in found.stderr


_USES = """
import sys, types
sys.argv, sys.orig_argv = ["-m"], ["python", "-m", "keras_pruner"]
import keras_pruner
names = types.SimpleNamespace(wrap=1, strip=2, __all__=["wrap"])
sys.modules["keras_pruner.api"] = names
from keras_pruner import cli
from keras_pruner import *
print(wrap, keras_pruner.strip, hasattr(keras_pruner, "none"))
"""
_LOADS = """
import sys
import keras_pruner
import keras
print(type(keras.saving.load_model(sys.argv[1]).layers[0]).__name__)
print(keras_pruner.__all__ == [*dict.fromkeys(keras_pruner.__all__)])
print(set(keras_pruner.__all__) <= set(dir(keras_pruner)))
"""


def test_modules_that_a_command_imports_find_all_public_names(no_keras):
    found = python("-c", _USES, path=no_keras)
    assert found.stdout == "1 2 False\n", found.stderr


@slow_where_compiled
@pytest.mark.long
def test_importing_the_package_registers_its_layers(tmp_path):
    wrap(build_mlp(), target_sparsity=0.5).save(tmp_path / "wrapped.keras")
    found = python("-c", _LOADS, tmp_path / "wrapped.keras", path=tmp_path)
    assert found.stdout.split() == ["PrunedLayer", "True", "True"], found.stderr


def test_inspect_lists_kernels_reasons_and_groups(folder, capsys):
    code, text, _ = run("inspect model.keras --groups --pattern 2:4", capsys)
    assert code == 0
    assert "hidden/kernel" in text and "16 x 8" in text
    assert "removed from" in text and "hidden/bias[0]" in text
    code, text, _ = run("inspect model.keras --pattern 3:5 --json --groups", capsys)
    found = json.loads(text)
    assert found["rows"][0]["skipped"].startswith("pattern '3:5' needs an input axis")
    assert found["groups"][0]["size"] == 8
    assert found["totals"]["parameters"] == 163


def test_kernels_that_share_a_line_are_listed_if_asked(folder, capsys):
    equal = [layers.Dense(8, name=f"part_{index}") for index in range(4)]
    keras.Sequential([layers.Input((8,)), *equal]).save("equal.keras")
    _, text, _ = run("inspect equal.keras --pattern 3:5", capsys)
    assert "`--all` lists each." in text
    for command in (
        "inspect equal.keras --pattern 3:5",
        "report equal.keras --engines none",
    ):
        _, text, _ = run(f"{command} --all", capsys)
        assert "part_3/kernel" in text and "lists each" not in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("inspect none.keras", "There is no file 'none.keras'"),
        ("inspect x.npy", "'x.npy' cannot be loaded. "),
        ("inspect bad.keras", "It is no .keras file, or it is damaged"),
        ("inspect model.keras --pattern 3:2", "3:2"),
        ("inspect model.keras --import no_module", "`--import no_module` fails: No mo"),
        ("strip model.keras -o out.h5", "must end in .keras. Received: 'out.h5'"),
        ("strip model.keras -o model.keras", "which is the input itself"),
        ("strip model.keras -o x/out.keras", "There is no folder 'x' for `--output`"),
        ("report model.keras --html x/a.html", "There is no folder 'x' for `--html`"),
        ("shrink model.keras -o out.keras --data y.npy", "cannot run on the giv"),
        ("shrink model.keras -o out.keras --data model.keras", "is no .npy or .npz"),
        (
            "prune model.keras -o out.keras --target-sparsity .5 --method admm",
            "`--method admm` needs samples of the model's inputs: `--data FILE.npy`",
        ),
        (
            "prune model.keras -o out.keras --target-sparsity .5 --pattern 1y1",
            "1y1",
        ),
        (
            "prune model.keras -o out.keras --target-sparsity .5 --data x.npy "
            "--method wandaa",
            "'wanda'",
        ),
        ("compare model.keras model.keras --engines none --metrics f1", "`metrics` n"),
        ("report model.keras --engines litr", "Did you mean 'litert'"),
        # Keras' own message is bold, and has several lines.
        ("export model.keras -o out.keras --data y.npy", "cannot run on the given"),
    ],
)
def test_errors_of_users_are_one_line(text, message, folder, capsys):
    (folder / "bad.keras").write_text("no model")
    code, _, errors = run(text, capsys)
    assert code == 1
    assert message in errors and "Traceback" not in errors
    assert [line[:7] for line in errors.splitlines()].count("error: ") == 1
    assert errors.splitlines()[-1].startswith("error: ") and "\x1b" not in errors
    assert sorted(path.name for path in folder.iterdir()) == [
        *("bad.keras", "model.keras", "x.npy", "xy.npz", "y.npy")
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "required: command"),
        ("fuse model.keras", "invalid choice: 'fuse'"),
        ("prune m.keras -o o.keras --target-sparsity 80", "e.g. 0.8 for 80 % zeros"),
        ("report m.keras --rounds 0", "needs a whole number >= 1, not '0'"),
        ("compare m.keras n.keras --batch-sizes 1,x", "not 'x'"),
    ],
)
def test_wrong_usage_has_code_2(text, message, capsys):
    with pytest.raises(SystemExit) as error:
        main(text.split())
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_reader_that_has_enough_is_told_nothing(no_keras):
    script = no_keras / "keras-pruner"
    script.write_text(
        "import sys; from keras_pruner.cli import COMMANDS, main; "
        "COMMANDS['demo'].run = lambda options: print('line'); sys.exit(main(['demo']))"
    )
    reader, writer = os.pipe()
    os.close(reader)
    found = subprocess.run(
        [sys.executable, script],
        stdout=writer,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": f"{no_keras}{os.pathsep}{ROOT}"},
    )
    os.close(writer)
    assert (found.returncode, found.stderr) == (1, b"")


@pytest.mark.parametrize(
    "text", ["prune model.keras --target-sparsity .5 -o", "report model.keras --html"]
)
def test_places_that_cannot_be_written_are_told_before_the_work(
    text, folder, capsys, monkeypatch
):
    (folder / "old.keras").mkdir()
    (folder / "locked").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: path.name != "locked")
    monkeypatch.setattr("keras_pruner.cli.files.load_model", None)
    for place, message in (
        ("old.keras", "'old.keras' is a folder, and no file."),
        ("locked/new.keras", "There is no permission to write into 'locked'."),
    ):
        overwrite = " --overwrite" if text.endswith("-o") else ""
        code, _, errors = run(f"{text} {place}{overwrite}", capsys)
        assert (code, errors) == (1, f"error: {message}\n")


def test_debug_shows_where_an_error_comes_from(capsys):
    _, _, errors = run("inspect none.keras --debug", capsys)
    assert "Traceback" in errors and "error: There is no file" in errors


def test_prune_by_samples(folder, capsys):
    before = pathlib.Path("model.keras").read_bytes()
    command = "prune model.keras -o out.keras --target-sparsity .5 --data xy.npz"
    code, text, _ = run(f"{command} --method wanda --allocation uniform", capsys)
    assert code == 0 and "pruned by 'wanda', from 40 samples" in " ".join(text.split())
    assert "Saved to 'out.keras'." in text
    command = f"{command} --method wanda --allocation uniform --overwrite --json"
    code, text, _ = run(command, capsys)
    totals = json.loads(text)["totals"]
    assert (totals["zeros"], totals["num_samples"]) == (76, 40)
    pruned = keras.saving.load_model("out.keras")
    kernel = keras.ops.convert_to_numpy(pruned.get_layer("hidden").kernel)
    assert np.sum(kernel == 0) == 64
    assert pathlib.Path("model.keras").read_bytes() == before


def test_prune_without_samples_by_magnitude(folder, capsys):
    command = "prune model.keras -o model.keras --overwrite --target-sparsity .5 --json"
    code, text, errors = run(f"{command} --exclude head", capsys)
    assert code == 0 and "the smallest weights are pruned" in errors
    found = json.loads(text)
    assert (found["output"], found["totals"]["zeros"]) == ("model.keras", 64)
    kernel = keras.saving.load_model("model.keras").get_layer("hidden").kernel
    assert np.sum(keras.ops.convert_to_numpy(kernel) == 0) == 64
    # Nothing is left of the writing.
    assert len(list(folder.iterdir())) == 4


def test_shrink_and_strip(folder, capsys):
    model = build_mlp()
    kernel = np.ones((16, 8))
    kernel[:, :3] = 0
    set_kernel(model.layers[0], kernel)
    wrapped = wrap(model, target_sparsity=0.5)
    wrapped.save("wrapped.keras")
    code, text, _ = run("strip wrapped.keras -o plain.keras", capsys)
    assert code == 0 and "hidden/kernel" in text
    plain = keras.saving.load_model("plain.keras")
    assert not any(isinstance(layer, PrunedLayer) for layer in plain.layers)
    model.save("zeros.keras")
    code, text, _ = run("shrink zeros.keras -o small.keras --data x.npy --json", capsys)
    totals = json.loads(text)["totals"]
    assert code == 0 and totals["relative_difference"] < 1e-6
    assert (totals["parameters_before"], totals["parameters_after"]) == (163, 103)
    assert keras.saving.load_model("small.keras").layers[0].units == 5


def test_compare_and_report_as_text_json_and_html(folder, capsys):
    build_mlp().save("other.keras")
    command = "compare model.keras other.keras --engines none --data x.npy"
    code, text, _ = run(f"{command} --labels y.npy --html out.html", capsys)
    assert code == 0 and "accura" in text and "quantity" in text
    assert "<table" in pathlib.Path("out.html").read_text()
    code, text, _ = run(f"{command} --json", capsys)
    assert json.loads(text)["totals"]["ratio"]["parameters"] == 1.0
    command = "report model.keras --engines none --html out.html --plot out.png"
    code, text, _ = run(command, capsys)
    assert code == 0 and "FLOPs" in text and "hidden/kernel" in text
    assert pathlib.Path("out.html").read_text().count("<div style") == 3
    assert pathlib.Path("out.png").read_bytes().startswith(b"\x89PNG")
    code, text, _ = run("report model.keras --engines none --json", capsys)
    assert json.loads(text)["totals"]["flops"] == 2 * (16 * 8 + 8 * 3)


_MODULE = """
import keras

@keras.saving.register_keras_serializable("mine")
class Doubled(keras.layers.Layer):
    def call(self, inputs):
        return 2 * inputs
"""


def test_custom_layers_come_from_an_imported_module(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (folder / "my_layers.py").write_text(_MODULE)
    sys.path.insert(0, str(folder))
    import my_layers

    inputs = keras.Input((16,))
    keras.Model(inputs, layers.Dense(3)(my_layers.Doubled()(inputs))).save("c.keras")
    known = keras.saving.get_custom_objects()
    del known["mine>Doubled"], sys.modules["my_layers"], sys.path[0]
    code, _, errors = run("inspect c.keras", capsys)
    assert code == 1 and "It needs 'Doubled', which is not registered" in errors
    assert "`--import my_module`" in errors
    code, text, _ = run("inspect c.keras --import my_layers", capsys)
    assert code == 0 and "dense" in text
    del known["mine>Doubled"], sys.modules["my_layers"]


def test_code_in_a_file_needs_trust(folder, capsys):
    inputs = keras.Input((16,))
    doubled = layers.Lambda(lambda x: 2 * x, output_shape=(16,))(inputs)
    keras.Model(inputs, layers.Dense(3)(doubled)).save("l.keras")
    code, _, errors = run("inspect l.keras", capsys)
    assert code == 1 and "`--trust` lets Keras run it" in errors
    code, text, _ = run("inspect l.keras --trust", capsys)
    assert code == 0 and "dense" in text


def test_inputs_of_several_names(folder, capsys):
    inputs = {name: keras.Input((4,), name=name) for name in ("b", "a")}
    joined = layers.Concatenate()([inputs["a"], inputs["b"]])
    keras.Model(inputs, layers.Dense(3)(joined)).save("two.keras")
    a, b = np.ones((8, 4), "float32"), np.zeros((8, 4), "float32")
    np.savez("ab.npz", a=a, b=b)
    np.savez("ac.npz", a=a, c=b)
    command = "prune two.keras -o o.keras --target-sparsity .5 --method wanda"
    code, _, _ = run(f"{command} --data ab.npz", capsys)
    assert code == 0
    code, _, errors = run(f"{command} --overwrite --data ac.npz", capsys)
    assert code == 1 and "has the arrays a, c, but the model takes" in errors


def test_export_writes_and_runs_a_file(folder, capsys):
    command = "export model.keras -o out.keras --format keras --data x.npy"
    code, text, _ = run(f"{command} --option compression=lzma", capsys)
    assert code == 0 and "out.keras" in text
    assert keras.saving.load_model("out.keras").count_params() == 163
    code, _, errors = run(command, capsys)
    assert code == 1 and "is there already" in errors
    code, text, _ = run(f"{command} --overwrite --json", capsys)
    assert json.loads(text)["output"] == "out.keras"
    code, _, errors = run("export model.keras -o out.bin", capsys)
    assert code == 1 and "out.bin" in errors
    with pytest.raises(SystemExit):
        main([*command.split(), "--option", "compression"])
    assert "needs NAME=VALUE" in capsys.readouterr().err


def test_json_has_plain_values_only(capsys):
    print_json({"a": np.float32(0.5), "b": (np.int64(2), float("nan")), "c": zipfile})
    found = json.loads(capsys.readouterr().out)
    assert (found["a"], found["b"]) == (0.5, [2, None])
    assert found["c"].startswith("<module")
