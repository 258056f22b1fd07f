"""The names of tensorflow_model_optimization's pruning, for Keras 3.

```python
from keras_pruner.compat import tfmot

schedule = tfmot.sparsity.keras.ConstantSparsity(0.5, begin_step=0)
pruned = tfmot.sparsity.keras.prune_low_magnitude(model, pruning_schedule=schedule)
```

The names are here, too: `from keras_pruner.compat.tfmot import prune_low_magnitude`.
`docs/migration.md` lists the differences.
"""

from keras_pruner.compat.tfmot import sparsity
from keras_pruner.compat.tfmot.sparsity.keras import *  # noqa: F403
from keras_pruner.compat.tfmot.sparsity.keras import __all__ as _names

__all__ = ["sparsity"]
__all__ += _names

_ELSEWHERE = {
    "clustering": "This package has no weight clustering.",
    "quantization": "Use `model.quantize` of Keras 3.",
}


def __getattr__(name):
    if name in _ELSEWHERE:
        raise AttributeError(
            f"keras_pruner.compat.tfmot has only `sparsity`. {_ELSEWHERE[name]}"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
