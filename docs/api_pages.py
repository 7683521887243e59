"""The pages of the API reference: one for each room, with every name that the room exports.

`docs/conf.py` writes them to docs/api/ when the site is built; autodoc fills in the docstrings.
"""

import importlib
import inspect
from typing import TypeVar

ROOMS = [
    "types", "differentiate", "inner", "outer", "losses", "data", "nets", "nets.fusion",
    "modalities", "modalities.corruptions", "diagnostics", "algorithms", "training", "plots",
    "estimators",
]  # fmt: skip


def exported(module):
    """{name: object} of what a module exports, alphabetically; modules are left out."""
    is_file = not hasattr(module, "__path__")  # it does not export what it imports
    home = module.__name__ if is_file else "metajax"
    found = {}
    for name, value in vars(module).items():
        ours = getattr(value, "__module__", home).startswith(home)
        hidden = name.startswith("_") or inspect.ismodule(value) or isinstance(value, TypeVar)
        if ours and not hidden:
            found[name] = value
    return dict(sorted(found.items(), key=lambda pair: pair[0].lower()))


def directive(value):
    """The directive of autodoc for an object, with the options that it takes."""
    if inspect.isclass(value):
        # scikit-learn adds these methods, whose documentation is its own.
        return "autoclass", [
            "   :members:",
            "   :exclude-members: set_predict_request, set_score_request",
        ]
    if inspect.isfunction(value) or hasattr(value, "__wrapped__"):
        return "autofunction", []
    return "autodata", []


def page(room):
    """The page of a room, in reStructuredText."""
    module = importlib.import_module(f"metajax.{room}")
    title = f"metajax.{room}"
    names = exported(module)
    lines = [title, "=" * len(title), "", inspect.getdoc(module), ""]
    lines += [f".. currentmodule:: {title}", "", ".. autosummary::", "   :nosignatures:", ""]
    lines += [f"   {name}" for name in names]
    for name, value in names.items():
        kind, options = directive(value)
        lines += ["", f".. {kind}:: {name}", *options]
    return "\n".join([*lines, ""])


def write(folder):
    """Writes the page of every room that changed."""
    folder.mkdir(exist_ok=True)
    for room in ROOMS:
        path = folder / f"{room}.rst"
        text = page(room)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
