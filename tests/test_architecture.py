"""Imports run downward through the layers, and only `compiled` knows a backend."""

import ast
import pathlib

PACKAGE = pathlib.Path(__file__).parent.parent / "keras_pruner"

# From the bottom up. A module may import from its own layer's folder and from below.
LAYERS = [
    ["version", "registry", "failures", "checkpoints"],
    ["reductions", "compiled", "aliases", "checks", "layouts", "slots", "saved_state"],
    ["selection", "schedules", "kernels"],
    ["selectors", "criteria", "patterns"],
    ["allocations", "regularizers"],
    ["config"],
    ["collect", "masking", "plan", "training", "flow", "resuming"],
    ["probe"],
    ["pruners"],
    ["optimizer", "wrappers", "plots"],
    ["attachment"],
    ["at_init", "backup", "callbacks", "report", "summaries"],
    ["demo"],
    ["__main__", "__init__"],
]
BACKENDS = {"tensorflow", "jax", "torch"}


def part_of(path):
    """The module or folder, right in the package, that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module == "keras_pruner":
                yield from (f"keras_pruner.{alias.name}" for alias in node.names)
            else:
                yield node.module


def sources():
    return sorted(PACKAGE.rglob("*.py"))


def test_every_part_has_a_layer():
    known = {part for layer in LAYERS for part in layer}
    assert {part_of(path) for path in sources()} == known


def test_imports_run_downward():
    height = {part: i for i, layer in enumerate(LAYERS) for part in layer}
    upward = []
    for path in sources():
        for name in imports_of(path):
            if name.startswith("keras_pruner."):
                target, own = name.split(".")[1], part_of(path)
                if target != own and height[target] >= height[own]:
                    upward.append(f"{own} -> {target}")
    assert upward == []


def test_only_compiled_imports_a_backend():
    found = {
        part_of(path)
        for path in sources()
        for name in imports_of(path)
        if name.split(".")[0] in BACKENDS
    }
    assert found == {"compiled"}


def test_modules_stay_short():
    long = [str(p) for p in sources() if len(p.read_text().splitlines()) > 400]
    assert long == []
