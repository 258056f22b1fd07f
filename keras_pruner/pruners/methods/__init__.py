"""Pruners, each by its registered name: one file each."""
