"""The code of the README and of the pages under docs/ runs, block after block, as it is typed.

Several pages run in one process, so that the library is imported once. Each page has a namespace
and a folder of its own, and the error of each names the page and the line.
"""

import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import pytest

import metajax

ROOT = pathlib.Path(__file__).parents[1]
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
GUIDES = {
    "attribution", "bilevel", "data", "devices", "differentiate", "features", "higher",
    "learn2learn", "modalities", "nets", "own", "own_net", "seeds", "start", "strategies",
    "streams", "training",
}  # fmt: skip
PROCESSES = 3
RUN = """
import contextlib, io, json, pathlib, sys, traceback

start = pathlib.Path.cwd()
pages = json.loads((start / "pages.json").read_text())
errors = {}
for page, code in pages.items():
    folder = start / "files" / page  # of its own
    folder.mkdir(parents=True)
    try:
        with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
            exec(compile(code, page, "exec"), {"__name__": "__main__"})
        errors[page] = ""
    except BaseException:
        errors[page] = traceback.format_exc()
(start / "errors.json").write_text(json.dumps(errors))
"""


def code_of(page):
    """The blocks of a page, in their lines, so that an error names the line of the page."""
    lines = []
    inside = False
    for line in (ROOT / page).read_text().splitlines():
        if line.startswith("```"):
            inside = line == "```python"
            lines.append("")
        else:
            lines.append(line if inside else "")
    return "\n".join(lines)


SMALL = {
    "steps=200": "steps=2",
    "meta_batch(task, 600)": "meta_batch(task, 4)",
    "width=16": "width=2",
}
"""Sizes in the first lines of the README, and what they are in the test."""


def small(page, code):
    """The code with small sizes, in the README."""
    if page != "README.md":
        return code
    for size, tiny in SMALL.items():
        assert code.count(size) == 1, size
        code = code.replace(size, tiny)
    return code


CODE = {page: small(page, code_of(page)) for page in PAGES}
CODE = {page: code for page, code in CODE.items() if code.strip()}
FIRST = "docs/devices.md"  # it sets the number of devices, which must happen first
ORDER = [FIRST, *(page for page in CODE if page != FIRST)]


def test_the_guides_have_code():
    assert CODE.keys() >= {"README.md", *(f"docs/{name}.md" for name in GUIDES)}


@pytest.mark.parametrize("number", range(PROCESSES))
def test_the_code_of_the_pages_runs(number, tmp_path):
    mine = {page: CODE[page] for page in ORDER[number::PROCESSES]}
    (tmp_path / "pages.json").write_text(json.dumps(mine))
    cache = {
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    stubs = f"{ROOT / 'tests' / 'stubs'}:{os.environ.get('PYTHONPATH', '')}"  # of trackers
    # Another worker may be writing a compiled program that this process reads.
    torn = "ignore:Error reading persistent compilation cache entry:UserWarning"
    command = [sys.executable, "-W", "error", "-W", torn, "-c", RUN]
    env = os.environ | cache | {"PYTHONPATH": stubs}
    subprocess.run(command, env=env, cwd=tmp_path, check=True)
    errors = json.loads((tmp_path / "errors.json").read_text())
    assert errors.keys() == mine.keys()
    failed = [f"{page}\n{error}" for page, error in errors.items() if error]
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("page", PAGES)
def test_the_links_of_a_page_lead_somewhere(page):
    path = ROOT / page
    no_blocks = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"`[^`\n]*`", "", no_blocks)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{page} links to {target}"


def test_the_names_in_the_readme_exist():
    """Of every call or dotted name in its text, such as `modalities.support_weights(...)`."""
    code = re.findall(
        r"`([^`\n]+)`", re.sub(r"```.*?```", "", (ROOT / "README.md").read_text(), flags=re.S)
    )
    names = {name for text in code for name in re.findall(r"\b([a-z_]+(?:\.[a-z_]+)*)\(", text)}
    assert len(names) > 10
    for name in names:
        found = metajax
        for part in name.removeprefix("mj.").removeprefix("metajax.").split("."):
            found = getattr(found, part)


@pytest.mark.parametrize("page", PAGES)
def test_the_scripts_that_a_page_names_exist(page):
    named = re.findall(r"\b(?:examples|benchmarks)/[\w/]+\.py", (ROOT / page).read_text())
    missing = sorted({name for name in named if not (ROOT / name).exists()})
    assert not missing, f"{page} names {missing}"
