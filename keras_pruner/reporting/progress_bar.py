import importlib.util

from rich.console import Console
from rich.progress import Progress


def progress_bar(verbose):
    """Returns a `rich.progress.Progress` that disappears when its work is done.

    Args:
        verbose: Whether to show it. In a notebook without `ipywidgets`, and where the
            output is no terminal, nothing shows.
    """
    # The kernel of a notebook looks like a terminal, and would keep every step.
    shown = Console()
    if shown.is_jupyter:
        hidden = importlib.util.find_spec("ipywidgets") is None
    else:
        # It would end with an empty line, e.g. in a pipe.
        hidden = not shown.is_interactive
    console = Console(force_jupyter=False) if hidden else None
    return Progress(console=console, disable=hidden or not verbose, transient=True)
