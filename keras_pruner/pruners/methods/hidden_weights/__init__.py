"""Pruners that train dense weights beside the kernels that the model computes with."""
