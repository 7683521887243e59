"""Every example uses public names only, and runs at a tiny size.

A run is mostly compilation, half a minute for some. Those in `ALWAYS` are cheap and together show
each kind of example. The others run where the environment variable METAJAX_TEST_EXAMPLES is "all".
"""

import ast
import importlib.util
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import types

import jax
import matplotlib.pyplot as plt
import pytest

import metajax

ROOT = pathlib.Path(__file__).parents[1]
FOLDER = ROOT / "examples"
FIRST = {path.stem: path for path in sorted((FOLDER / "start").glob("*.py"))}
SCRIPTS = {
    path.stem: path
    for folder in ("applications", "research")
    for path in sorted((FOLDER / folder).glob("*.py"))
}

CLUSTER = [FOLDER / "cluster" / name for name in ("train.py", "optuna_search.py")]

ALWAYS = ("sinusoid", "bilevel", "groceries", "intents")

SMALL = {
    "differentiate_an_optimizer": {"STEPS": 5, "OUTER_STEPS": 2},
    "own_images": {"STEPS": 1, "TEST_TASKS": 3},
    "own_table": {"TEST_TASKS": 4},
    "quickstart": {"STEPS": 2, "TEST_TASKS": 4},
    "several_seeds": {"STEPS": 20, "SEEDS": 2, "TEST_TASKS": 4},
    "sinusoid": {"STEPS": 2, "TEST_TASKS": 4},
}
"""Sizes at the top of the first examples, made small."""

NEEDS_DATA_FILES = (
    "alignment", "annotations", "characters", "drifting_stream", "groceries", "intents",
    "longer_sequences", "omniglot", "speech", "video",
)  # fmt: skip

REPORT = {"translation": "translation-0"}
"""Reports that are not named like their script."""

NO_PICTURE = ("annotations", "omniglot")

FROM_WEIGHTS = ("bilevel", "letters")
"""Scripts whose pictures show more than their reports tell."""

PICTURE_NEEDS_DATA_FILES = ("alignment", "characters", "speech", "video")

HEADER = {"jax", "jaxlib", "xla_flags", "device"}

# The interpreter's own keys are cheap to compile; the figures of a tiny run mean nothing.
QUICK = {"JAX_DEFAULT_PRNG_IMPL": "unsafe_rbg", "MPLBACKEND": "agg"}


def attributes(tree):
    """The dotted names `mj.a.b` that a script uses, as tuples ("a", "b")."""
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or id(node) in inner:
            continue
        names = []
        while isinstance(node, ast.Attribute):
            names.insert(0, node.attr)
            node = node.value
        if isinstance(node, ast.Name) and node.id == "mj":
            yield tuple(names)


def imports(tree):
    """The modules that a script imports, and the names that it imports from each."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((name.name, ()) for name in node.names)
        if isinstance(node, ast.ImportFrom):
            yield node.module, tuple(name.name for name in node.names)


@pytest.mark.parametrize(
    "path",
    [*FIRST.values(), *SCRIPTS.values(), *CLUSTER, FOLDER / "common.py"],
    ids=lambda path: f"{path.parent.name}-{path.stem}",
)
def test_an_example_uses_public_names(path):
    """A name is public where the package or one of its rooms exports it."""
    tree = ast.parse(path.read_text())
    of_metajax = [module for module, _ in imports(tree) if module.startswith("metajax")]
    assert of_metajax == ["metajax"]
    used = set(attributes(tree))
    assert used
    for names in used:
        found = metajax
        for name in names:
            is_module = isinstance(found, types.ModuleType)
            assert not name.startswith("_"), names
            assert not is_module or is_room(found), f"{found.__name__} of {names} is no room"
            found = getattr(found, name)


def is_room(module):
    """Whether users import from this module: a package, or a file beside them."""
    return hasattr(module, "__path__") or module.__name__.count(".") == 1


def environment():
    """The settings of a run, those of the tests included: no optimisation, shared programs."""
    flags = os.environ.get("XLA_FLAGS", "")
    cache = {
        "JAX_COMPILATION_CACHE_DIR": os.environ["METAJAX_TEST_PROGRAMS"],
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return {**os.environ, **QUICK, **cache, "XLA_FLAGS": flags}


def load(path):
    """A script as a module, which is not run."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_training_for_clusters_runs_in_local_processes(tmp_path):
    command = ["bash", FOLDER / "cluster" / "local.sh", "2", "--folder", tmp_path]
    options = ["--steps", "4", "--tasks", "4"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    python = pathlib.Path(sys.executable).parent
    done = subprocess.run(
        [*command, *options],
        env={**environment(), "PORT": port, "PATH": f"{python}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "step 4: error" in done.stdout
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1


@pytest.fixture
def as_script():
    """The settings of a script, in place of those of the suite. Its figures mean nothing."""
    plt.switch_backend("agg")
    with (
        jax.enable_x64(False),
        jax.numpy_rank_promotion("allow"),
        jax.default_prng_impl("unsafe_rbg"),  # it is cheap to compile
    ):
        yield
    plt.close("all")
    jax.clear_caches()  # they hold the data of the script; compiled programs stay on disk


def published(report):
    """The committed report of this name."""
    return json.loads((ROOT / "benchmarks" / "results" / f"{report}.json").read_text())


def check_files(folder, name):
    """A run has written its report, which has what the published one has, and its picture."""
    report = REPORT.get(name, name)
    expected = {f"{report}.json"} if name in NO_PICTURE else {f"{report}.json", f"{report}.png"}
    assert {path.name for path in folder.iterdir()} == expected
    found = json.loads((folder / f"{report}.json").read_text())
    assert published(report).keys() | HEADER == found.keys()


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_example_runs(name, tmp_path, as_script):
    """In this process: interpreter and libraries are started once, and programs are shared."""
    if name not in ALWAYS and os.environ.get("METAJAX_TEST_EXAMPLES") != "all":
        pytest.skip("METAJAX_TEST_EXAMPLES=all runs it: compilation takes up to half a minute")
    if name in NEEDS_DATA_FILES and "METAJAX_DATA" not in os.environ:
        pytest.skip("METAJAX_DATA does not name a folder with data files")
    script = load(SCRIPTS[name])
    script.main(script.TINY, tmp_path)
    check_files(tmp_path, name)


def test_an_example_runs_from_the_command_line(tmp_path):
    """It writes into the folder that --out names; a setting of its config may be given."""
    command = [sys.executable, SCRIPTS["sinusoid"], "--tiny", "--out", "made", "--steps", "3"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    check_files(tmp_path / "made", "sinusoid")
    assert json.loads((tmp_path / "made" / "sinusoid.json").read_text())["outer_steps"] == 3


@pytest.mark.parametrize("name", sorted({*SCRIPTS} - {*NO_PICTURE, *FROM_WEIGHTS}))
def test_a_published_report_is_drawn(name, tmp_path, as_script):
    """A picture is drawn from its report alone, so that it is drawn anew without training."""
    if name in PICTURE_NEEDS_DATA_FILES and "METAJAX_DATA" not in os.environ:
        pytest.skip("METAJAX_DATA does not name a folder with data files")
    load(SCRIPTS[name]).plot(published(REPORT.get(name, name)), tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", FIRST)
def test_a_first_example_runs(name, tmp_path, as_script, monkeypatch, capsys):
    """It has fewer than 80 lines and no options, so its sizes are made small in its text."""
    text = FIRST[name].read_text()
    assert text.count("\n") < 80
    assert "argparse" not in text
    for size, tiny in SMALL[name].items():
        text, number = re.subn(rf"^{size} = \d+", f"{size} = {tiny}", text, flags=re.MULTILINE)
        assert number == 1, size
    monkeypatch.chdir(tmp_path)
    text = re.sub(r"width=\d+", "width=2", text)
    exec(compile(text, str(FIRST[name]), "exec"), {"__name__": "__main__"})
    printed = capsys.readouterr().out
    assert re.search(r"\d", printed), "it ends with a number"
    assert printed.splitlines()[-1].startswith(f"See {name}.png")
    assert (tmp_path / f"{name}.png").exists()


def test_the_lists_name_scripts():
    named = {*ALWAYS, *NEEDS_DATA_FILES, *REPORT, *NO_PICTURE, *FROM_WEIGHTS}
    assert named | {*PICTURE_NEEDS_DATA_FILES} <= set(SCRIPTS)
    assert SMALL.keys() == FIRST.keys()
