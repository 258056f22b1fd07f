"""The one place of the version; imported by nothing heavy, so builds can read it."""

__version__ = "0.1.0"
