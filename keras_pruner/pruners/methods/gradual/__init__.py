"""Pruners that add zeros to a model, or keep those that it has."""
