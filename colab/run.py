"""Runs the tutorials from top to bottom, and saves them with their outputs.

    python colab/run.py                  # all
    python colab/run.py quickstart       # one, by name or by path

It needs `pip install ".[test,demo,plots]"`, and the extras that a tutorial installs.
The saved file holds nothing of the machine that ran it: no paths, times or addresses.
"""

import argparse
import configparser
import contextlib
import os
import pathlib
import re
import sys
import tempfile

import nbformat
from nbclient import NotebookClient

FOLDER = pathlib.Path(__file__).parent
COLAB = "https://colab.research.google.com"
# Plots of this size keep a tutorial small.
DOTS_PER_INCH = 72
# Beginnings of lines that native code of TensorFlow writes, or matplotlib where a
# machine has few fonts.
_LOGS = (
    "WARNING: All log messages before absl",
    r"[IWEF]\d{4} ",
    "INFO: Created TensorFlow Lite",
    "WARNING:matplotlib.font_manager",
)
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def notebooks(names=()):
    """Returns the paths of the named tutorials, or of all."""
    if not names:
        return sorted(FOLDER.glob("*.ipynb"))
    paths = [FOLDER / f"{pathlib.Path(name).stem}.ipynb" for name in names]
    missing = [path.stem for path in paths if not path.exists()]
    if missing:
        known = ", ".join(path.stem for path in notebooks())
        raise SystemExit(
            f"No tutorial is named {', '.join(missing)}. There are: {known}"
        )
    return paths


def address():
    """Returns the address of the repository: `url` in setup.cfg, the one place."""
    settings = configparser.ConfigParser()
    settings.read(FOLDER.parent / "setup.cfg")
    return settings["metadata"]["url"]


def badge(name):
    """Returns the text of a tutorial's first cell, which opens it in Colab."""
    place = address().removeprefix("https://github.com/")
    return (
        f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]"
        f"({COLAB}/github/{place}/blob/main/colab/{name}.ipynb)"
    )


def install(extras):
    """Returns the text of the cell that installs the package with some extras."""
    archive = f"{address()}/archive/refs/heads/main.zip"
    return (
        "try:\n"
        "    import keras_pruner\n"
        "except ImportError:  # For example on Colab.\n"
        f'    %pip install -q "keras-pruner[{",".join(extras)}] @ {archive}"'
    )


def extras_of(notebook):
    """Returns the names of the extras that a tutorial installs."""
    (found,) = re.findall(r"keras-pruner\[([\w,]+)\]", notebook.cells[2].source)
    return found.split(",")


def with_address(notebook, name):
    """Writes the address of setup.cfg into a tutorial: badge, installation, links."""
    notebook.cells[0].source = badge(name)
    notebook.cells[2].source = install(extras_of(notebook))
    for cell in notebook.cells[1:]:
        if cell.cell_type == "markdown":
            link = r"https://github\.com/[\w-]+/[\w-]+(?=/blob/main/)"
            cell.source = re.sub(link, address(), cell.source)
    return notebook


def execute(path):
    """Runs one tutorial in an empty folder, and returns it with its outputs."""
    notebook = with_address(nbformat.read(path, as_version=4), path.stem)
    nbformat.validate(notebook)
    with tempfile.TemporaryDirectory() as folder, _environment():
        # Matplotlib reads this file in the folder where it runs.
        settings = pathlib.Path(folder, "matplotlibrc")
        settings.write_text(f"figure.dpi: {DOTS_PER_INCH}\n")
        NotebookClient(
            notebook,
            timeout=600,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
        ).execute()
    return clean(notebook, path.stem)


@contextlib.contextmanager
def _environment():
    """Lets the kernel import this package, draw in the notebook, and log nothing."""
    saved = dict(os.environ)
    os.environ.pop("MPLBACKEND", None)
    paths = [str(FOLDER.parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    # Of tqdm, which KerasHub imports, where there are no ipywidgets.
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(saved)


def clean(notebook, name):
    """Removes everything that differs between two runs of the same tutorial."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{name}-{number:02}"[-64:]
        cell.metadata.clear()
        if cell.cell_type == "code":
            cell.outputs = _merged(cell.outputs)
    return notebook


def _merged(outputs):
    """Returns outputs in which each stream is one text without overwritten lines."""
    merged = []
    for output in outputs:
        output.get("metadata", {}).clear()
        last = merged[-1] if merged else {}
        if output.output_type == "stream" and last.get("name") == output.name:
            last.text += output.text
        else:
            merged.append(output)
    for output in merged:
        if output.output_type == "stream":
            output.text = _final(output.text)
        elif "text/plain" in output.get("data", {}):
            text = output.data["text/plain"]
            output.data["text/plain"] = re.sub(r" at 0x[0-9a-f]+", "", text)
    return [output for output in merged if output.get("text") != ""]


def _final(text):
    """Returns the text that a terminal shows in the end, without TensorFlow's log.

    TensorFlow begins to log, with times and processes, before it reads the level.
    """
    text = re.sub(rf"(?m)^({'|'.join(_LOGS)}).*\n", "", text)
    text = text.replace("\r\n", "\n")
    return re.sub(r"[^\n]*\r(?=[^\n])", "", text).replace("\r", "")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="tutorials; all if there are none")
    for path in notebooks(parser.parse_args().names):
        print(path.stem, end=" ", flush=True)
        nbformat.write(execute(path), path)
        print(f"{path.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    sys.exit(main())
