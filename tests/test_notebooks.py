"""The tutorials run from top to bottom, and are saved as they ran elsewhere."""

import configparser
import importlib.metadata
import importlib.util
import pathlib
import re

import keras
import nbformat
import pytest
from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).parents[1]

only_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="some tutorials use tf.GradientTape and tf.distribute",
)


def load_script():
    spec = importlib.util.spec_from_file_location("run", ROOT / "colab" / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


run = load_script()
PATHS = run.notebooks()
SETTINGS = configparser.ConfigParser()
SETTINGS.read(ROOT / "setup.cfg")
URL = SETTINGS["metadata"]["url"]
each_tutorial = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)

# Longest saved file, in bytes.
LARGEST = 400_000
OF_A_MACHINE = re.compile(
    r"(?<![\w.:/~])/(?!job:|device:)\w[\w.-]*/\w|[A-Za-z]:\\\w|site-packages|0x[0-9a-f]{6}"
    r"|\b\d[\d.,]* ?(ms|s|µs|us|sec|seconds|min|minutes)\b"
)


def read(path):
    return nbformat.read(path, as_version=4)


def outputs_of(notebook):
    return [o for cell in notebook.cells for o in cell.get("outputs", [])]


def texts_of(output):
    """Returns the texts of an output, as a reader sees them."""
    data = output.get("data", {})
    texts = [data[kind] for kind in data if kind.startswith("text/")]
    return [*texts, output.get("text", "")]


def texts(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def extras_of(path):
    """Returns the extras of setup.cfg that a tutorial installs."""
    return run.extras_of(read(path))


def missing_packages(path):
    """Returns the requirements of a tutorial that are not installed here."""
    missing = []
    # TensorFlow runs, or the test is skipped. Its package has several names.
    for extra in set(extras_of(path)) - {"tensorflow"}:
        lines = SETTINGS["options.extras_require"][extra].split()
        for requirement in map(Requirement, lines):
            try:
                importlib.metadata.version(requirement.name)
            except importlib.metadata.PackageNotFoundError:
                missing.append(requirement.name)
    return missing


def kinds_of(cell):
    """Returns the kinds of output that a reader sees in a cell."""
    outputs = cell.get("outputs", [])
    return {kind for o in outputs for kind in o.get("data", {})}


def test_tutorials_are_found():
    assert {path.stem for path in PATHS} == {
        "quickstart", "wrap_layers", "patterns_and_criteria", "sparse_training",
        "one_shot", "structured_and_shrink", "export_litert", "transformers",
        "distributed_and_resume", "custom_algorithm",
    }  # fmt: skip


def test_the_list_of_tutorials_is_whole():
    text = (ROOT / "colab" / "README.md").read_text()
    listed = re.findall(r"^\| \[(\w+)\]\((\w+)\.ipynb\)", text, flags=re.M)
    assert sorted(listed) == [(path.stem, path.stem) for path in PATHS]


@each_tutorial
def test_badge_and_installation_follow_setup_cfg(path):
    notebook = read(path)
    cells = notebook.cells
    place = URL.removeprefix("https://github.com/")
    assert (
        f"({run.COLAB}/github/{place}/blob/main/colab/{path.name})" in cells[0].source
    )
    assert cells[1].source.startswith("# ")
    assert cells[2].cell_type == "code"
    (line,) = re.findall(r'%pip install -q "(.*)"', cells[2].source)
    requirement = Requirement(line)
    assert requirement.name == SETTINGS["metadata"]["name"]
    assert requirement.url == f"{URL}/archive/refs/heads/main.zip"
    assert requirement.extras <= set(SETTINGS["options.extras_require"])
    # What the script would write.
    assert run.with_address(read(path), path.stem) == notebook


@each_tutorial
def test_links_lead_to_files(path):
    notebook = read(path)
    text = "\n".join(texts(notebook)[1:])
    links = re.findall(r"\]\((.*?)\)", text)
    assert any(link.startswith(f"{URL}/blob/main/docs/") for link in links)
    for link in links:
        if link.startswith(URL):
            assert (ROOT / link.removeprefix(f"{URL}/blob/main/")).is_file(), link
    others = {other.stem for other in PATHS}
    steps = text.partition("## What next")[2]
    assert steps, "the end of a tutorial says what to read next"
    for name in re.findall(r"`(\w+)`", steps):
        assert name in others or hasattr(__import__("keras_pruner"), name), name


@each_tutorial
def test_texts_state_no_results_and_no_defaults(path):
    """Results and defaults are printed from values, so that they cannot be wrong."""
    for text in texts(read(path)):
        assert not re.search(r"\d ?%|\d times|percent", text), text
        for sentence in re.split(r"(?<=[.:!?])\s+", text):
            if re.search(r"\bdefaults?\b", sentence):
                assert not re.search(r'"|\d', sentence), sentence


@each_tutorial
def test_saved_outputs_are_whole_and_of_no_machine(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert path.stat().st_size < LARGEST
    assert notebook.metadata == run.METADATA
    numbers = [c.execution_count for c in notebook.cells if c.cell_type == "code"]
    assert numbers == list(range(1, len(numbers) + 1)), "python colab/run.py"
    outputs = outputs_of(notebook)
    assert any("image/png" in o.get("data", {}) for o in outputs)
    for output in outputs:
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text
        for text in texts_of(output):
            # A style may hold anything.
            text = re.sub(
                r"<style.*?</style>|style=\".*?\"|</\w+>", "", text, flags=re.S
            )
            assert not OF_A_MACHINE.search(text), text


@each_tutorial
def test_cleaning_changes_nothing_twice(path):
    assert run.clean(read(path), path.stem) == read(path)


def test_streams_are_saved_as_a_terminal_shows_them():
    new = nbformat.v4.new_output
    outputs = [
        new("stream", name="stdout", text="10 %\r20 %\rdone\n"),
        new("stream", name="stdout", text="I0000 00:00:1795822316.47 3 x.cc:31] log\n"),
        new("stream", name="stderr", text="W0000 00:00:1795822316.47 3 x.cc:31] log\n"),
        new("display_data", {"text/plain": "<Axes at 0x7f3c5d1e>"}),
        new("stream", name="stdout", text="end\r\n"),
    ]
    cell = nbformat.v4.new_code_cell("pass", outputs=outputs, metadata={"a": 1})
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"b": 2})
    cell = run.clean(notebook, "name").cells[0]
    assert [texts_of(output)[0] for output in cell.outputs] == [
        "done\n", "<Axes>", "end\n"
    ]  # fmt: skip
    assert (cell.id, cell.metadata) == ("name-00", {})
    assert notebook.metadata == run.METADATA


def test_unknown_tutorial_is_named():
    with pytest.raises(SystemExit, match="No tutorial is named other. There are: cust"):
        run.notebooks(["other"])


@only_tensorflow
@pytest.mark.notebooks
@each_tutorial
def test_tutorial_runs(path):
    missing = missing_packages(path)
    if missing:
        extras = ",".join(extras_of(path))
        pytest.skip(f"needs {', '.join(missing)}: pip install '.[{extras}]'")
    saved, notebook = read(path), run.execute(path)
    for old, new in zip(saved.cells, notebook.cells, strict=True):
        assert old.source == new.source
        assert kinds_of(old) == kinds_of(new), "python colab/run.py"
    # A progress bar asks for no further package.
    assert not [o for o in outputs_of(notebook) if "ipywidgets" in o.get("text", "")]
