"""docs/migration.md: code of the peers runs with other imports."""

import pathlib
import re

import pytest

PAGE = pathlib.Path(__file__).parent.parent.parent / "docs" / "migration.md"
IMPORTS = {
    "import tensorflow_model_optimization as tfmot": (
        "from keras_pruner.compat import tfmot"
    ),
    "from neural_compressor": "from keras_pruner.compat.neural_compressor",
}


def blocks():
    """Returns the pairs of a kind and a text of the code in the page, in order."""
    return re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("number", [0, 1])
def test_only_the_imports_of_the_peers_change(number):
    found = blocks()
    places = [index for index, (kind, _) in enumerate(found) if kind == "py"]
    assert len(places) == 2
    theirs, ours = found[places[number]][1], found[places[number] + 1][1]
    assert theirs != ours
    for old, new in IMPORTS.items():
        theirs = theirs.replace(old, new)
    assert theirs == ours
