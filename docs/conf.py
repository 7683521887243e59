"""How Sphinx builds the site: `sphinx-build -W --keep-going -b html docs docs/_build/html`."""

import pathlib
import re
import sys

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import inspect
from sphinx.util.nodes import make_refnode

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import api_pages  # noqa: E402

import metajax  # noqa: E402

api_pages.write(HERE / "api")
ALIASES = [name for name in vars(metajax.types) if name[0].isupper()]

project = "metajax"
author = "The metajax developers"
copyright = author
release = metajax.__version__
version = release

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build"]
templates_path = []

# Pages. Their code is run by tests/test_readme.py, so that a build needs a minute only.
nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
copybutton_prompt_text = ">>> "

# Docstrings: the style of Google, with code in single backticks.
default_role = "code"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
autosummary_generate = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_type_aliases = {name: name for name in [*ALIASES, "Array"]}
add_module_names = False
python_maximum_signature_line_length = 90
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "metajax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}

CODE = re.compile(r"(`[^`]+`)")
MARKUP = re.compile(r"[*|\\]|(?<=\w)_(?!\w)")


def indent(line):
    """Number of spaces in front of a line; that of an empty line is large."""
    return len(line) - len(line.lstrip()) if line.strip() else 1000


def escape(app, what, name, thing, options, lines):
    """Escapes what reStructuredText would read as markup, but for code and examples."""
    block = 1000  # lines that are indented as far as this are a block of code
    example = False
    for number, line in enumerate(lines):
        example = line.lstrip().startswith(">>>") or (example and bool(line.strip()))
        if indent(line) < block:
            block = 1000
        if example or block < 1000:
            continue
        parts = CODE.split(line)
        parts[::2] = [MARKUP.sub(r"\\\g<0>", part) for part in parts[::2]]
        lines[number] = "".join(parts)
        after = lines[number + 1 : number + 3]
        announces = line.endswith(":") and len(after) == 2 and not after[0].strip()
        if announces and indent(line) < indent(after[1]) < 1000:
            block = indent(after[1])
            lines[number] += ":"


def plain(app, what, name, thing, options, signature, returns):
    """A signature as it is written in the code; that of a protocol is the one of its call."""
    if getattr(thing, "_is_protocol", False):
        call = inspect.signature(
            thing.__call__, bound_method=True, type_aliases=autodoc_type_aliases
        )
        signature = inspect.stringify_signature(call, unqualified_typehints=True)
    texts = []
    for text in (signature, returns):
        texts.append(re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", text) if text else text)
    return tuple(texts)


def attributes(app, tree, docname):
    """Calls the fields of a class attributes, as the docstrings do, and not variables."""
    for field in tree.findall(nodes.field_name):
        if field.astext() == "Variables":
            field.children = [nodes.Text("Attributes")]


def skip(app, what, name, thing, skipped, options):
    """Leaves out the fields of a NamedTuple, which `Attributes` describes."""
    return True if type(thing).__name__ == "_tuplegetter" else None


class LinkedNames(SphinxPostTransform):
    """Makes a link of code that is the name of something in the API reference."""

    default_priority = 400

    def run(self, **kwargs):
        """Looks at every piece of code in the text."""
        for code in list(self.document.findall(nodes.literal)):
            inside = code.parent
            while inside is not None and not isinstance(inside, nodes.reference | nodes.title):
                inside = inside.parent
            found = self.target(code.astext())
            if inside is None and found:
                page, anchor = found
                inner = nodes.literal(code.rawsource, code.astext(), classes=code["classes"])
                code.replace_self(
                    make_refnode(self.app.builder, self.env.docname, page, anchor, inner)
                )

    def target(self, text):
        """(page, anchor) of a name such as "mj.data.episodes(ways=5)", or None."""
        name = re.sub(r"\(.*\)$", "", text, flags=re.DOTALL)
        name = re.sub(r"^(mj|metajax)\.", "", name)
        if not re.fullmatch(r"[A-Za-z][\w.]*", name):
            return None
        objects = self.env.domains["py"].objects
        for room in ["", *(f"{room}." for room in api_pages.ROOMS)]:
            entry = objects.get(f"metajax.{room}{name}")
            if entry and entry.objtype != "module":
                return entry.docname, entry.node_id
        return None


def setup(app):
    """Adds the above to Sphinx."""
    app.connect("autodoc-process-docstring", escape, priority=400)
    app.connect("autodoc-process-signature", plain)
    app.connect("autodoc-skip-member", skip)
    app.connect("doctree-resolved", attributes)
    app.add_post_transform(LinkedNames)
