"""Holds the registered pruners."""
