"""Parses the command line, runs a command, and turns errors into exit codes."""

import os
import re
import sys
import traceback

from absl import app, flags, logging
from absl.flags import argparse_flags

from keras_pruner.cli import (
    compare,
    demo,
    export,
    inspect,
    prune,
    report,
    shrink,
    strip,
)
from keras_pruner.version import __version__

# One module a command: its docstring is the help; `add_arguments`, `run`.
COMMANDS = {
    "inspect": inspect,
    "prune": prune,
    "shrink": shrink,
    "strip": strip,
    "export": export,
    "compare": compare,
    "report": report,
    "demo": demo,
}
_EXIT_CODES = "Exit codes: 0 done, 1 an error in a file or value, 2 a wrong usage."
_USER_ERRORS = (ImportError, OSError, TypeError, ValueError)


def run():
    """Runs the command of the process's own arguments, and exits."""
    app.run(_run, flags_parser=_parse)


def main(arguments=None):
    """Runs a command and returns its exit code: 0, or 1 after an error of the user's.

    Args:
        arguments: List of strings. The default is the process's own arguments.

    Raises:
        SystemExit: With code 2, if the arguments are wrong; with 0 after `--help`.
    """
    return _run(_parser().parse_args(arguments))


def _parser():
    parser = argparse_flags.ArgumentParser(
        prog="keras-pruner",
        description="Prunes Keras models: smaller files and faster inference.",
        epilog=_EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, module in COMMANDS.items():
        text = module.__doc__.strip()
        words = text.splitlines()[0].rstrip(".")
        command = commands.add_parser(
            name,
            help=f"{words[0].lower()}{words[1:]}",
            description=text,
            epilog=_EXIT_CODES,
        )
        module.add_arguments(command)
        command.add_argument(
            "--debug", action="store_true", help="show where an error comes from"
        )
        command.set_defaults(run=module.run)
    return parser


def _parse(arguments):
    """Parses the arguments of the process, which logs plain sentences."""
    options = _parser().parse_args(arguments[1:])
    logging.get_absl_handler().setFormatter(None)
    if flags.FLAGS["verbosity"].using_default_value:
        # `app.run` would log on, also what libraries tell.
        logging.set_verbosity(logging.WARNING)
    return options


def _run(options):
    try:
        options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of the output, e.g. `head`, has enough. Python's exit flushes too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except _USER_ERRORS as error:
        if options.debug:
            traceback.print_exc()
        print(f"error: {_text_of(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _text_of(error):
    """Returns one line, as `checks.one_line` does, which imports NumPy."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.filename}: {error.strerror}"
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())
