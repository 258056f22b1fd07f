import importlib.util

from rich.console import Console
from rich.progress import Progress


def progress_bar(verbose):
    """Returns a `rich.progress.Progress` that disappears when its work is done.

    Args:
        verbose: Whether to show it. In a notebook without `ipywidgets` nothing shows.
    """
    plain = importlib.util.find_spec("ipywidgets") is None
    console = Console(force_jupyter=False) if plain else None
    return Progress(console=console, disable=not verbose, transient=True)
