"""Keeps activations in memory, and those beyond a limit in temporary files."""

import itertools
import math
import pathlib
import shutil
import tempfile
import weakref

import keras
import numpy as np
from keras import ops

from keras_pruner.backend import keras_mask_of, set_keras_mask


class ActivationStore:
    """Keeps dicts of tensors: in memory up to a limit, then in temporary files.

    Masks that Keras attached to the tensors are kept too.

    Args:
        max_memory: Most bytes of tensors in memory.

    Attributes:
        peak_memory: Most bytes that were in memory.
        peak_disk: Most bytes that were in files.
        folder: Path of the files, which are deleted with the store; `None` without.
    """

    def __init__(self, max_memory):
        self._max_memory = max_memory
        self._in_memory = self._on_disk = 0
        self.peak_memory = self.peak_disk = 0
        self._numbers = itertools.count()
        self.folder = None

    def save(self, values):
        """Keeps a dict of tensors, and returns what `load` and `free` take."""
        num_bytes = sum(map(_bytes_of, values.values()))
        kept = _Kept(num_bytes)
        if self._in_memory + num_bytes <= self._max_memory:
            # Layers may remove the mask from a tensor that they are given.
            kept.values = {k: (x, keras_mask_of(x)) for k, x in values.items()}
            self._in_memory += num_bytes
            self.peak_memory = max(self.peak_memory, self._in_memory)
        else:
            if self.folder is None:
                self.folder = pathlib.Path(tempfile.mkdtemp(prefix="keras_pruner_"))
                weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
            kept.write(values, self.folder / f"{next(self._numbers)}.npz")
            self._on_disk += num_bytes
            self.peak_disk = max(self.peak_disk, self._on_disk)
        return kept

    def load(self, kept):
        """Returns the dict of tensors that was saved."""
        values = kept.values if kept.path is None else kept.read()
        for tensor, mask in values.values():
            set_keras_mask(tensor, mask)
        return {key: tensor for key, (tensor, _) in values.items()}

    def share(self, kept):
        """Keeps the tensors until `free` was called once more."""
        kept.owners += 1

    def free(self, kept):
        """Frees what `save` returned, unless it has another owner."""
        kept.owners -= 1
        if kept.owners:
            return
        if kept.path is None:
            self._in_memory -= kept.num_bytes
            kept.values = None
        else:
            self._on_disk -= kept.num_bytes
            kept.path.unlink()


class _Kept:
    """A dict of tensors in memory or in a file."""

    def __init__(self, num_bytes):
        self.num_bytes = num_bytes
        self.owners = 1
        self.values = self.path = None
        # Key -> dtypes and shapes of the tensor and of its mask, if it has one.
        self._forms = {}

    def write(self, values, path):
        arrays = []
        for key, value in values.items():
            self._forms[key] = forms = []
            for tensor in (value, keras_mask_of(value)):
                if tensor is not None:
                    array = ops.convert_to_numpy(tensor)
                    forms.append((array.dtype, array.shape))
                    # A file has no bfloat16.
                    arrays.append(np.frombuffer(array.tobytes(), "uint8"))
        np.savez(path, *arrays)
        self.path = path

    def read(self):
        """Returns the tensors, each with its mask or `None`."""
        values = {}
        with np.load(self.path) as file:
            arrays = iter([file[f"arr_{i}"] for i in range(len(file.files))])
        for key, forms in self._forms.items():
            value, *mask = (
                ops.convert_to_tensor(next(arrays).view(dtype).reshape(shape))
                for dtype, shape in forms
            )
            values[key] = value, mask[0] if mask else None
        return values


def _bytes_of(tensor):
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return math.prod(tensor.shape) * np.dtype(dtype).itemsize
