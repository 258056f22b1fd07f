"""Arguments that several commands share, and their types."""

import argparse
import os
import pathlib

MODEL = "a file that Keras loads, e.g. MODEL.keras"
DATA = (
    "inputs of the model: a .npy file, or a .npz file with an array for each input. "
    "Of the arrays 'x' and 'y', 'y' has the labels"
)


def add_model(parser, name="model", text=MODEL):
    """Adds the path of a model, and what its loading needs, to a parser."""
    parser.add_argument(name, metavar=name.upper(), help=text)


def add_loading(parser):
    """Adds the options of loading."""
    parser.add_argument(
        "--import",
        dest="modules",
        metavar="MODULE",
        action="append",
        default=[],
        help="Python module that registers custom layers; may be given several times",
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="let Keras run the code of Lambda layers in the file",
    )


def add_output(parser):
    """Adds the path of a new model."""
    parser.add_argument(
        "-o", "--output", metavar="OUT", required=True, help="file to write"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace OUT if it exists"
    )


def add_printing(parser):
    """Adds how a table of kernels is printed."""
    parser.add_argument("--all", action="store_true", help="a line for every kernel")
    add_json(parser)


def add_json(parser):
    """Adds `--json`."""
    parser.add_argument(
        "--json", action="store_true", help="print JSON, and nothing else"
    )


def add_data(parser, text=DATA):
    """Adds the path of samples."""
    parser.add_argument("--data", metavar="FILE", help=text)


def add_timing(parser):
    """Adds how latency is measured."""
    parser.add_argument(
        "--engines",
        type=names,
        help="names with commas, e.g. tensorflow,litert, or 'none'; default: all that "
        "are installed",
    )
    parser.add_argument(
        "--batch-sizes", type=sizes, help="numbers with commas; default: 1,64"
    )
    parser.add_argument("--rounds", type=positive, default=10, help="default: 10")
    parser.add_argument(
        "--threads", type=positive, default=1, help="of engines that take a number"
    )


def names(text):
    """Returns the names in a text, or an empty tuple for "none"."""
    found = tuple(filter(None, text.split(",")))
    return () if found == ("none",) else found


def positive(text):
    """Returns a whole number of at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"needs a whole number >= 1, not {text!r}")
    return number


def sizes(text):
    """Returns the numbers in a text."""
    return tuple(map(positive, text.split(",")))


def share(text):
    """Returns a number in [0, 1)."""
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(
            f"needs a number in [0, 1), e.g. 0.8 for 80 % zeros, not {text!r}"
        )
    return number


def check_files(options, suffixes=(".keras",)):
    """Raises an error for files that cannot be read or written.

    Args:
        options: Parsed arguments.
        suffixes: Suffixes that the output may have, or `None` for any.

    Raises:
        ValueError: If a file is missing, or the output is there already.
    """
    values = vars(options)
    for name in ("model", "before", "after", "data", "labels"):
        if values.get(name) is not None and not pathlib.Path(values[name]).exists():
            raise ValueError(f"There is no file '{values[name]}'.")
    for name in ("output", "html", "plot"):
        if values.get(name) is not None:
            folder = pathlib.Path(values[name]).parent
            if not folder.is_dir():
                raise ValueError(f"There is no folder '{folder}' for `--{name}`.")
            if not os.access(folder, os.W_OK):
                raise ValueError(f"There is no permission to write into '{folder}'.")
            # A SavedModel is a folder.
            if pathlib.Path(values[name]).is_dir() and suffixes is not None:
                raise ValueError(f"'{values[name]}' is a folder, and no file.")
    output = values.get("output")
    if output is None:
        return
    output = pathlib.Path(output)
    if suffixes is not None and output.suffix not in suffixes:
        raise ValueError(
            f"The output must end in {' or '.join(suffixes)}. Received: '{output}'"
        )
    if output.exists() and not options.overwrite:
        same = ", which is the input itself" if _is_input(output, values) else ""
        raise ValueError(
            f"'{output}' is there already{same}. Give another name to `-o`, or "
            "`--overwrite`."
        )


def _is_input(output, values):
    return values.get("model") and output.samefile(values["model"])
