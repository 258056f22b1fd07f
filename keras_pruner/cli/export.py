"""Write a model to a file that other programs run, and compare its outputs."""

import argparse
import json

from keras_pruner.cli import arguments, files


def add_arguments(parser):
    arguments.add_model(parser)
    arguments.add_output(parser)
    parser.add_argument(
        "--format",
        help="litert, onnx, openvino, saved_model or keras; default: by the suffix of "
        "OUT",
    )
    arguments.add_data(
        parser, f"{arguments.DATA}. The file runs on them, and must be equal"
    )
    parser.add_argument("--tolerance", type=float, help="largest relative difference")
    parser.add_argument(
        "--option",
        type=_name_and_value,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="option of the format, e.g. weights=int8 of litert, compression=lzma of "
        "keras, opset_version=17 of onnx; may be given several times",
    )
    parser.add_argument(
        "--shrink", action="store_true", help="remove channels of zeros before"
    )
    arguments.add_loading(parser)
    arguments.add_json(parser)


def run(options):
    arguments.check_files(options, suffixes=None)
    model = files.load_model(options.model, options)
    from keras_pruner.exporting import export

    with files.working("exporting"):
        found = export(
            model,
            options.output,
            options.format,
            sample_inputs=files.samples_of(options, model),
            tolerance=options.tolerance,
            shrink=options.shrink,
            **dict(options.option),
        )
    files.show(options, found)


def _name_and_value(text):
    """Returns the name and the value of an option; values may be numbers or booleans.

    Example:

    >>> [_name_and_value(x) for x in ("weights=int8", "opset_version=17", "a=false")]
    [('weights', 'int8'), ('opset_version', 17), ('a', False)]
    """
    name, sign, value = text.partition("=")
    if not name.isidentifier() or not sign:
        raise argparse.ArgumentTypeError(f"needs NAME=VALUE, not {text!r}")
    try:
        return name, json.loads(value.lower())
    except ValueError:
        return name, value
