"""Files of a model that is being pruned, and how a run goes on from them."""

from keras_pruner.training.saving.atomic_files import (
    load_weights,
    save_model,
    save_weights,
)
from keras_pruner.training.saving.backup_and_resume import BackupAndResume

__all__ = ["BackupAndResume", "load_weights", "save_model", "save_weights"]
