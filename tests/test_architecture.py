"""Imports run downward through the layers, and few modules know a backend."""

import ast
import pathlib

PACKAGE = pathlib.Path(__file__).parent.parent / "keras_pruner"

# From the bottom up. A module may import from its own layer's folder and from below.
LAYERS = [
    ["version", "registry", "failures", "orbax"],
    ["checkpoints", "reductions", "float_keys", "compiled", "aliases", "checks"],
    ["layouts", "slots"],
    ["search", "schedules", "devices", "hub_rules", "packing", "saved_state"],
    ["kernels", "selection", "copies", "freezing"],
    ["ranking", "selectors", "criteria", "patterns"],
    ["allocations", "regularizers"],
    ["config"],
    ["collect", "masking", "plan", "training", "flow", "resuming"],
    ["probe"],
    ["pruners"],
    ["pytorch"],
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
    return names_in(ast.walk(ast.parse(path.read_text())))


def names_in(nodes):
    for node in nodes:
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


def backends_in(names):
    return {name.split(".")[0] for name in names} & BACKENDS


def test_only_compiled_and_pytorch_import_a_backend():
    found = {part_of(path): backends_in(imports_of(path)) for path in sources()}
    assert {part for part in found if found[part]} <= {"compiled", "pytorch"}


def test_backends_are_imported_where_they_are_needed():
    # So that the package can be imported with any one of them.
    for path in sources():
        body = ast.parse(path.read_text()).body
        outside = [n for n in body if isinstance(n, ast.Import | ast.ImportFrom)]
        assert not backends_in(names_in(outside)), path


def test_modules_stay_short():
    long = [str(p) for p in sources() if len(p.read_text().splitlines()) > 400]
    assert long == []
