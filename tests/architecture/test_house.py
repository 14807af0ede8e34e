"""The house keeps its shape: rooms, floors, sizes, names that a room offers, plain openings of docstrings."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("alignment", "pipelines", "dags")
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
TREES = {module: ast.parse(path.read_text()) for module, path in FILES.items()}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LOOSE = {
    *("pipelines.host", "pipelines.settings", "pipelines.workspace", "alignment.config"),
    *PACKAGES,
}
"""Modules that belong to no room."""
MAXIMUM_ROOMS = 28
"""Folders directly below alignment/ and pipelines/."""
MAXIMUM_FLOORS = 8
"""Of pipelines and of alignment each: rooms on the longest way down that an import can take."""
MAXIMUM_CHAIN = 23
"""Modules on the longest way down that an import can take."""
MAXIMUM_PUBLIC_NAMES = 44
"""Functions and classes at the top of a module, without an underscore, per 1,000 lines of code."""
MAXIMUM_OFFERED_NAMES = 22
"""Of those, the ones that another room uses, per 1,000 lines of code."""
QUESTION = re.compile(r"(what|whether|why|how|who|whose|where|when|which)\b", re.IGNORECASE)


def room_of(module: str) -> str:
    """Package and first folder."""
    return ".".join(module.split(".")[:2])


@cache
def imports() -> dict[str, frozenset[str]]:
    """Module to the modules of the project that it imports, at its top or in a function; type checking left out."""
    found = {}
    for module, tree in TREES.items():
        found[module] = frozenset(target for target, _ in imported(tree) if target != module)
    return found


def imported(tree: ast.Module) -> Iterator[tuple[str, str | None]]:
    """Each imported module of the project, with the name taken from it; None for the module itself."""
    typing = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test)]
    skipped = {id(inner) for node in typing for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and id(node) not in skipped:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if whole in FILES:
                    yield whole, None
                elif node.module in FILES:
                    yield node.module, alias.name


def longest_way(arrows: dict[str, set[str]], start: str) -> int:
    """Nodes on the longest way down from `start`; a circle ends in RecursionError."""

    @cache
    def below(node: str) -> int:
        return 1 + max((below(other) for other in arrows.get(node, ())), default=0)

    return below(start)


def test_only_the_named_modules_stand_outside_a_room() -> None:
    loose = {module for module, path in FILES.items() if module.count(".") == 1 and path.name != "__init__.py"}
    assert {module for module in loose if not module.startswith("dags.")} <= LOOSE


def test_rooms_do_not_multiply() -> None:
    rooms = {room_of(m) for m, p in FILES.items() if not m.startswith("dags") and room_of(m) not in LOOSE}
    assert len(rooms) <= MAXIMUM_ROOMS, sorted(rooms)


@pytest.mark.parametrize("package", ["alignment", "pipelines"])
def test_floors_do_not_grow(package: str) -> None:
    arrows: dict[str, set[str]] = defaultdict(set)
    for module, targets in imports().items():
        for target in targets:
            if module.startswith(f"{package}.") and target.startswith(f"{package}."):
                arrows[room_of(module)].add(room_of(target))
    for room, below in arrows.items():
        below.discard(room)
    assert max(longest_way(arrows, room) for room in list(arrows)) <= MAXIMUM_FLOORS


def test_the_longest_chain_of_imports_does_not_grow() -> None:
    arrows = {module: set(targets) for module, targets in imports().items()}
    assert max(longest_way(arrows, module) for module in arrows) <= MAXIMUM_CHAIN


@pytest.mark.parametrize("module", FILES)
def test_files_and_functions_keep_their_limits(module: str) -> None:
    path, limit = FILES[module], 100 if module.startswith("dags.") else 400
    assert len(path.read_text().splitlines()) <= limit
    long = [
        f"{node.name}: {length} lines"
        for node in ast.walk(TREES[module])
        if isinstance(node, FUNCTIONS) and (length := (node.end_lineno or 0) - node.lineno + 1) > 60
    ]
    assert long == []


@pytest.mark.parametrize("module", FILES)
def test_docstrings_open_with_a_verb_or_a_noun(module: str) -> None:
    documented = (ast.Module, ast.ClassDef, *FUNCTIONS)
    texts = [ast.get_docstring(node) for node in ast.walk(TREES[module]) if isinstance(node, documented)]
    assert [text.splitlines()[0] for text in texts if text and QUESTION.match(text)] == []


def code_lines() -> int:
    """Lines of code of all packages, less blank lines, comments and docstrings."""
    total = 0
    for module, path in FILES.items():
        texts = [n for n in ast.walk(TREES[module]) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)]
        skipped = {line for node in texts for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            total += bool(line.strip()) and not line.lstrip().startswith("#") and number not in skipped
    return total


def public_names() -> set[tuple[str, str]]:
    """Module and name of each function and class at the top of a module, without an underscore."""
    return {
        (module, node.name)
        for module, tree in TREES.items()
        for node in tree.body
        if isinstance(node, (ast.ClassDef, *FUNCTIONS)) and not node.name.startswith("_")
    }


def offered_names() -> set[tuple[str, str]]:
    """Public names that a module of another room uses."""
    used = set()
    for module, tree in TREES.items():
        local = {}
        for target, name in imported(tree):
            if room_of(target) != room_of(module):
                local[target.rsplit(".", 1)[1]] = target
                if name:
                    used.add((target, name))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in local:
                used.add((local[node.value.id], node.attr))
    return used & public_names()


def test_public_names_do_not_multiply() -> None:
    thousands = code_lines() / 1000
    assert len(public_names()) / thousands <= MAXIMUM_PUBLIC_NAMES
    assert len(offered_names()) / thousands <= MAXIMUM_OFFERED_NAMES


def test_rooms_are_used_through_what_they_offer() -> None:
    """`__all__` of a room names its modules that other rooms import."""
    used: dict[str, set[str]] = defaultdict(set)
    for module, targets in imports().items():
        for target in targets:
            if room_of(target) != room_of(module) and target.count(".") > 1:
                used[room_of(target)].add(target.split(".")[2])
    for room, names in used.items():
        assert names == set(offers(room)), f"{room}/__init__.py: __all__ differs from what other rooms import"


def offers(room: str) -> list[str]:
    """`__all__` of a room's `__init__.py`."""
    for node in TREES[room].body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []
