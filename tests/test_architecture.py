"""The house: imports run downward through ten layers, rooms keep their doors shut."""

import ast
import importlib
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "keras_pruner"

# From the bottom up. A room may import from the layers below it.
LAYERS = [
    ["version", "types", "checks", "backend"],
    ["registry", "comparison", "intel_names"],
    ["channels", "kernels"],
    ["components"],
    ["config", "masks"],
    ["pruners"],
    ["training", "pytorch", "reporting"],
    ["oneshot"],
    ["slimming"],
    ["exporting"],
]
# No room imports them.
DOORS = ["api", "compat", "cli", "demo", "__main__", "__init__"]
BACKENDS = {"tensorflow", "jax", "torch"}
# Rooms that may import a backend.
KNOW_A_BACKEND = {"backend", "pytorch"}
MAX_FILES, MAX_LINES = 14, 400


def room_of(path):
    """The folder or file, right in the package, that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def sources():
    return sorted(PACKAGE.rglob("*.py"))


def names_in(nodes):
    """Yields the dotted name of everything that is imported."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module == "keras_pruner":
                yield from (f"keras_pruner.{alias.name}" for alias in node.names)
            else:
                yield node.module


def imports_of(path):
    return list(names_in(ast.walk(ast.parse(path.read_text()))))


def inner_imports():
    """Yields the importing file, its room, and the dotted name within the package."""
    for path in sources():
        for name in imports_of(path):
            if name.startswith("keras_pruner."):
                yield path, room_of(path), name.removeprefix("keras_pruner.")


def test_every_room_has_a_layer():
    known = {room for layer in LAYERS for room in layer} | set(DOORS)
    assert {room_of(path) for path in sources()} == known


def test_imports_run_downward():
    height = {room: i for i, layer in enumerate(LAYERS) for room in layer}
    height |= dict.fromkeys(DOORS, len(LAYERS))
    # A command imports what it runs.
    height |= {"__init__": len(LAYERS) + 1, "cli": len(LAYERS) + 1}
    height |= {"__main__": len(LAYERS) + 2}
    upward = [
        f"{path.name}: {own} -> {name}"
        for path, own, name in inner_imports()
        if (room := name.split(".")[0]) != own and height[room] >= height[own]
    ]
    assert upward == []


def test_imports_across_rooms_name_the_room_only():
    reaching = [
        f"{path.name} reaches into {name}"
        for path, own, name in inner_imports()
        if name.split(".")[0] != own and "." in name
    ]
    assert reaching == []


def test_rooms_and_files_stay_small():
    folders = {path.parent for path in sources()} - {PACKAGE}
    full = [str(f) for f in folders if len(list(f.glob("*.py"))) > MAX_FILES]
    assert full == []
    lengths = {str(path): len(path.read_text().splitlines()) for path in sources()}
    assert [path for path, length in lengths.items() if length > MAX_LINES] == []


@pytest.mark.parametrize(
    "room", sorted({room_of(path) for path in sources() if path.parent != PACKAGE})
)
def test_room_exports_what_it_says(room):
    module = importlib.import_module(f"keras_pruner.{room}")
    assert module.__doc__ and module.__all__ == sorted(module.__all__)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def backends_in(names):
    return {name.split(".")[0] for name in names} & BACKENDS


def test_only_two_rooms_import_a_backend():
    found = {room_of(path) for path in sources() if backends_in(imports_of(path))}
    assert found <= KNOW_A_BACKEND


def test_backends_are_imported_where_they_are_needed():
    # So that the package can be imported with any one of them.
    for path in sources():
        body = ast.parse(path.read_text()).body
        outside = [n for n in body if isinstance(n, ast.Import | ast.ImportFrom)]
        assert not backends_in(names_in(outside)), path


def private_names(path):
    """Returns the private names that a file uses, and those that it defines."""
    used, defined = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            store = (
                isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"
            )
            (defined if store else used).add(node.attr)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Assign):
            defined |= {t.id for t in node.targets if isinstance(t, ast.Name)}

    def is_private(name):
        return name.startswith("_") and not name.startswith("__")

    return set(filter(is_private, used)), set(filter(is_private, defined))


def test_private_names_of_keras_are_in_one_room():
    # Names of Python's own classes.
    known = {"_replace", "_asdict"}
    for path in sources():
        if room_of(path) not in KNOW_A_BACKEND:
            known |= private_names(path)[1]
    foreign = {}
    for path in sources():
        if room_of(path) not in KNOW_A_BACKEND:
            names = private_names(path)[0] - known
            if names:
                foreign[path.name] = names
    assert foreign == {}


def test_private_modules_of_keras_are_in_one_file():
    found = [path.name for path in sources() if "keras.src" in path.read_text()]
    assert found == ["keras_private.py"]
