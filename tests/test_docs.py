"""Every example in README, docs and docstrings runs."""

import doctest
import importlib
import pathlib
import pkgutil
import re

import keras
import numpy as np
import pytest

import keras_pruner
from keras_pruner.channels.rules import registry as channel_rules
from keras_pruner.kernels import rules
from keras_pruner.registry import Registry

ROOT = pathlib.Path(__file__).parent.parent
PAGES = ["README.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*.md"))]


def python_blocks(text):
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def namespace():
    """What the examples take for granted: data, a compiled model, the imports."""
    generator = np.random.default_rng(0)
    x = generator.random((64, 16)).astype("float32")
    y = generator.integers(0, 3, 64)
    model = keras.Sequential(
        [
            keras.layers.Input((16,)),
            keras.layers.Dense(32, activation="relu", name="hidden"),
            keras.layers.Dense(3, activation="softmax", name="head"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return {"keras": keras, "model": model, "x": x, "y": y, **vars(keras_pruner)}


# They train or measure, for ten seconds and more.
SLOW_PAGES = {"README.md", "docs/measuring.md", "docs/quantization.md"}


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=[pytest.mark.slow] * (p in SLOW_PAGES)) for p in PAGES],
)
def test_examples_of_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = python_blocks((ROOT / page).read_text())
    assert blocks or page not in ("README.md", "docs/design.md")
    backend = keras.backend.backend()
    blocks = [b for b in blocks if "import jax" not in b or backend == "jax"]
    if any("tf." in block for block in blocks) and backend != "tensorflow":
        # The page's own loops are written with tf.GradientTape.
        blocks = [b for b in blocks if f"import {backend}\n" in b]
        if not blocks:
            pytest.skip("no example of the page is written for this backend")
    blocks = [b for b in blocks if "import torch" not in b or backend == "torch"]
    names = namespace()
    for block in blocks:
        exec(compile(block, page, "exec"), names)


def modules():
    yield keras_pruner
    for found in pkgutil.walk_packages(keras_pruner.__path__, "keras_pruner."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def docstrings_with_examples():
    for module in modules():
        for name, item in vars(module).items():
            doc = getattr(item, "__doc__", None) or ""
            if getattr(item, "__module__", "") == module.__name__:
                if "```python" in doc:
                    yield pytest.param(doc, id=f"{module.__name__}.{name}")


@pytest.mark.parametrize("doc", list(docstrings_with_examples()))
def test_examples_of_docstring_run(doc, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "import torch" in doc and keras.backend.backend() != "torch":
        pytest.skip("the example is written for torch")
    names = namespace()
    for block in re.findall(r"( *)```python\n(.*?)```", doc, flags=re.DOTALL):
        indent, body = block
        code = re.sub(f"(?m)^{indent}", "", body)
        exec(compile(code, "docstring", "exec"), names)


def printed_examples():
    """Yields each docstring with `>>>` once, where its function or class is defined.

    The finder visits modules, functions, classes, and the methods of classes.
    """
    public = {name: getattr(keras_pruner, name) for name in keras_pruner.__all__}
    names = {"keras": keras, "ops": keras.ops, "np": np, **public}
    for module in modules():
        for test in doctest.DocTestFinder().find(module, globs=names | vars(module)):
            if test.examples:
                yield pytest.param(test, id=test.name)


def test_docstrings_of_functions_classes_and_methods_are_found():
    found = [example.id.removeprefix("keras_pruner.") for example in printed_examples()]
    assert len(found) == len(set(found))
    assert {
        "backend.ordered_sums.running_sum",
        "masks.budget.PruningPlan",
        "kernels.layouts.KernelLayout.to_matrix",
    } <= set(found)


@pytest.mark.parametrize("example", list(printed_examples()))
def test_printed_values_of_docstring_are_right(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "import torch" in example.docstring and keras.backend.backend() != "torch":
        pytest.skip("the example is written for torch")
    # An example may register a class; other tests must not see it.
    monkeypatch.setattr(rules, "_RULES", list(rules._RULES))
    monkeypatch.setattr(channel_rules, "_LAYERS", list(channel_rules._LAYERS))
    for registry in vars(keras_pruner).values():
        if isinstance(registry, Registry):
            monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    report = []
    doctest.DocTestRunner(optionflags=flags).run(
        example, out=report.append, clear_globs=False
    )
    assert not report, "".join(report)


def test_every_public_name_exists_and_is_documented():
    for name in keras_pruner.__all__:
        item = getattr(keras_pruner, name)
        if callable(item) and name != "__version__":
            assert item.__doc__, name


def test_links_in_pages_lead_somewhere():
    for page in PAGES:
        path = ROOT / page
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
            assert (path.parent / target).exists(), f"{page}: {target}"


def test_readme_has_the_two_commands():
    text = (ROOT / "README.md").read_text()
    assert (
        'python -m pip install ".[tensorflow,demo]" && python -m keras_pruner demo'
        in text
    )
    assert 'python -m pip install ".[tensorflow,test]" && python -m pytest' in text
