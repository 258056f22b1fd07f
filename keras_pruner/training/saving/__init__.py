"""Saves models during pruning, and resumes runs from the files."""

from keras_pruner.training.saving.atomic_files import (
    load_weights,
    save_model,
    save_weights,
)
from keras_pruner.training.saving.backup_and_resume import BackupAndResume
from keras_pruner.training.saving.partial_files import write_together

__all__ = [
    "BackupAndResume",
    "load_weights",
    "save_model",
    "save_weights",
    "write_together",
]
