"""Supports custom training loops: steps, counts, the order of hooks, files."""
