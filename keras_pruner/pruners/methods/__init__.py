"""Holds the registered pruners, in a folder for each way of a pruned weight."""
