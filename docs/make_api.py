"""Writes docs/api.md from the docstrings, a section for each room; with --check it only compares.

python docs/make_api.py [--check]
"""

import importlib
import inspect
import pathlib
import sys
from typing import TypeVar

PAGE = pathlib.Path(__file__).with_name("api.md")
ROOT = PAGE.parents[1]
ROOMS = {
    "types": "metajax.types",
    "differentiate": "metajax.differentiate",
    "inner": "metajax.inner",
    "outer": "metajax.outer",
    "losses": "metajax.losses",
    "data": "metajax.data",
    "nets": "metajax.nets",
    "nets.fusion": "metajax.nets.fusion",
    "modalities": "metajax.modalities",
    "modalities.corruptions": "metajax.modalities.corruptions",
    "diagnostics": "metajax.diagnostics",
    "algorithms": "metajax.algorithms",
    "training": "metajax.training",
    "plots": "metajax.plots",
}


def exported(module):
    """{name: object} of what a module exports, alphabetically; modules are left out."""
    found = {}
    for name, value in vars(module).items():
        ours = getattr(value, "__module__", module.__name__).startswith("metajax")
        hidden = name.startswith("_") or inspect.ismodule(value) or isinstance(value, TypeVar)
        if ours and not hidden:
            found[name] = value
    is_file = not hasattr(module, "__path__")
    if is_file:  # a file has imports of its own, which it does not export
        found = {
            name: value
            for name, value in found.items()
            if getattr(value, "__module__", None) == module.__name__
        }
    return dict(sorted(found.items(), key=lambda pair: pair[0].lower()))


def signature(name, value):
    """The call with its annotations, as it is written in the code."""
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return f"{name} = {value!r}" if isinstance(value, int | float | str | tuple) else name
    if inspect.isclass(value) and getattr(value, "_is_protocol", False):
        value = value.__call__
    try:
        found = inspect.signature(value)
    except ValueError:
        return name
    parameters = [
        parameter.replace(
            annotation=Written(parameter.annotation), default=written_default(parameter)
        )
        for parameter in found.parameters.values()
        if parameter.name != "self"
    ]
    returns = found.return_annotation
    returns = returns if returns is found.empty else Written(returns)
    return f"{name}{found.replace(parameters=parameters, return_annotation=returns)}"


class Written(str):
    """An annotation that is shown without quotes."""

    def __new__(cls, annotation):
        if annotation is inspect.Parameter.empty:
            return annotation
        text = getattr(annotation, "__forward_arg__", annotation)
        return super().__new__(
            cls, text if isinstance(text, str) else inspect.formatannotation(text)
        )

    def __repr__(self):
        return str(self)


def written_default(parameter):
    """A default value; a function by its name, and not by its address."""
    default = parameter.default
    if default is parameter.empty:
        return default
    if inspect.isfunction(default) or inspect.isclass(default):
        return Written(default.__name__)
    return default


def entry(name, value):
    """The lines of one name."""
    lines = [f"### `{name}`", "", "```text", signature(name, value)]
    if inspect.isclass(value) or inspect.isfunction(value):
        lines += ["", inspect.getdoc(value) or ""]
    return "\n".join([*lines, "```", ""])


def page():
    """The whole page."""
    parts = [
        "# API\n",
        "Made from the docstrings by `python docs/make_api.py`. The names used most are also at "
        "the top level: `metajax.inner_loop` is `metajax.inner.inner_loop`.\n",
    ]
    top = exported(importlib.import_module("metajax"))
    parts.append("At the top level: " + ", ".join(f"`{name}`" for name in top) + ".\n")
    for room, module_name in ROOMS.items():
        module = importlib.import_module(module_name)
        parts.append(f"## `metajax.{room}`\n\n{inspect.getdoc(module)}\n")
        parts += [entry(name, value) for name, value in exported(module).items()]
    return "\n".join(parts)


if __name__ == "__main__":
    made = page()
    if "--check" not in sys.argv:
        PAGE.write_text(made, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != made:
        sys.exit("docs/api.md is not that of the docstrings; run python docs/make_api.py.")
