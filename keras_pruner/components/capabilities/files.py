"""What files of Keras make of zeros."""

from keras_pruner.components.capabilities.base import (
    EngineCapability,
    register_capability,
)
from keras_pruner.components.patterns.base import Pattern


@register_capability("keras", "keras_file")
class KerasFile(EngineCapability):
    """A `.keras` file is an archive whose entries can be compressed.

    Keras saves them uncompressed; `export` compresses them, and Keras loads both.
    """

    title = "A .keras file"
    settings = {"pattern": "1x1"}  # noqa: RUF012

    def judge(
        self, pattern: Pattern, layer_types: tuple[str, ...] | None, dtype: str
    ) -> tuple[str, str]:
        return "size", (
            "Zeros of any pattern make a compressed .keras file smaller; Keras "
            "decompresses it when it loads it, and computes with zeros."
        )
