"""Divides a sparsity over the kernels of a model, by samples or by an allocation."""

from keras_pruner.oneshot.division.divide import check_allocation, check_name, divide
from keras_pruner.oneshot.division.error_curves import lower_hull
from keras_pruner.oneshot.division.owl import outlier_ratio

__all__ = ["check_allocation", "check_name", "divide", "lower_hull", "outlier_ratio"]
