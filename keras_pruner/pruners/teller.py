"""Shows lines of text to the user while masks are updated."""

import contextlib
import threading

from absl import logging

# Work that lasts longer is told.
PATIENCE_SECONDS = 3.0


class Teller:
    """Shows lines of text to the user.

    Attributes:
        show: Function that shows a line; logs it by default.
    """

    def __init__(self):
        self.show = logging.info
        self._told = set()

    def once(self, step, text):
        """Shows a text with a step, unless it was shown before."""
        if text not in self._told:
            self._told.add(text)
            self.show(f"Step {step}: {text}")

    @contextlib.contextmanager
    def if_it_takes_long(self, line):
        """Context that shows a line once it lasts some seconds."""
        timer = threading.Timer(PATIENCE_SECONDS, self.show, [line])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
