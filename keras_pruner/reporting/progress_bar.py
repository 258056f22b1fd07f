import importlib.util

from rich.console import Console
from rich.progress import Progress


def progress_bar(verbose):
    """Returns a `rich.progress.Progress` that disappears when its work is done.

    Args:
        verbose: Whether to show it. In a notebook without `ipywidgets` nothing shows.
    """
    # The kernel of a notebook looks like a terminal, and would keep every step.
    hidden = Console().is_jupyter and importlib.util.find_spec("ipywidgets") is None
    console = Console(force_jupyter=False) if hidden else None
    return Progress(console=console, disable=hidden or not verbose, transient=True)
