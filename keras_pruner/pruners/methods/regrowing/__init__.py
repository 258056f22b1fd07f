"""Pruners whose pruned weights return at zero."""
