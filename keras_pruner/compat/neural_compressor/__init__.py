"""The names of Intel Neural Compressor's pruning, for Keras 3 and for torch.

```python
from keras_pruner.compat.neural_compressor import WeightPruningConfig, prepare_pruning

config = WeightPruningConfig(target_sparsity=0.8, start_step=1, end_step=100)
pruning = prepare_pruning(model, config)
model.fit(x, y, callbacks=[pruning])
```

`docs/migration.md` lists the differences.
"""

from keras_pruner.compat.neural_compressor import config, training
from keras_pruner.compat.neural_compressor.config import WeightPruningConfig
from keras_pruner.compat.neural_compressor.training import (
    prepare_compression,
    prepare_pruning,
)

__all__ = [
    "WeightPruningConfig",
    "config",
    "prepare_compression",
    "prepare_pruning",
    "training",
]
