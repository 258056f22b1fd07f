"""The tutorials run from top to bottom and draw their plots."""

import pathlib

import keras
import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="the tutorials use tf.GradientTape",
)

NOTEBOOKS = sorted((pathlib.Path(__file__).parents[1] / "colab").glob("*.ipynb"))


def outputs_of(notebook):
    return [o for cell in notebook.cells for o in cell.get("outputs", [])]


def test_tutorials_are_found():
    names = {path.stem for path in NOTEBOOKS}
    assert {
        "quickstart", "wrap_layers", "custom_criterion", "sparse_training", "one_shot",
    } <= names  # fmt: skip


@pytest.mark.notebooks
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
    # Else plots are drawn without a trace in the notebook.
    monkeypatch.delenv("MPLBACKEND", raising=False)
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not outputs_of(notebook), "save the notebook without outputs"
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": tmp_path}},
    )
    client.execute()
    outputs = outputs_of(notebook)
    assert not [o for o in outputs if o.output_type == "error"]
    assert any("image/png" in o.get("data", {}) for o in outputs)
    # A progress bar asks for no further package.
    assert not [o for o in outputs if "ipywidgets" in o.get("text", "")]
