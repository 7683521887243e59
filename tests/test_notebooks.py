"""The notebooks run, cell after cell, with few steps; they hold no outputs, and have good links.

They run as a user has them: in float32, in another process, in an empty folder.
"""

import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "docs" / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
TINY = {"STEPS": 2, "TEST_TASKS": 20}
"""What the test sets in the place of the numbers of a notebook."""


def cells(name, kind):
    """The texts of all cells of one kind, by number."""
    notebook = json.loads((FOLDER / f"{name}.ipynb").read_text())
    return {
        number: "".join(cell["source"])
        for number, cell in enumerate(notebook["cells"])
        if cell["cell_type"] == kind
    }


def tiny_code(name):
    """The code of a notebook with few steps, as one program with the number of each cell."""
    code = "\n".join(f"# Cell {number}\n{text}" for number, text in cells(name, "code").items())
    for constant, value in TINY.items():
        code, found = re.subn(rf"^{constant} = \d+", f"{constant} = {value}", code, flags=re.M)
        assert found == 1, f"{name} sets {constant} {found} times"
    return code


def test_there_are_two_notebooks():
    assert NAMES == ["getting_started", "modalities"]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name, tmp_path):
    (tmp_path / f"{name}.py").write_text(tiny_code(name))
    settings = {
        "MPLBACKEND": "agg",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    ignored = [
        "Error reading persistent compilation cache entry",  # another worker is writing it
        "FigureCanvasAgg is non-interactive",  # plt.show() of a notebook
    ]
    warnings = [option for text in ignored for option in ("-W", f"ignore:{text}:UserWarning")]
    command = [sys.executable, "-W", "error", *warnings, f"{name}.py"]
    done = subprocess.run(
        command, env=os.environ | settings, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_holds_no_outputs(name):
    notebook = json.loads((FOLDER / f"{name}.ipynb").read_text())
    for cell in notebook["cells"]:
        assert cell.get("outputs", []) == [] and cell.get("execution_count") is None


@pytest.mark.parametrize("name", NAMES)
def test_the_links_of_a_notebook_lead_somewhere(name):
    text = "\n".join(cells(name, "markdown").values())
    targets = re.findall(r"\]\(([^)#\s]+)\)", text)
    assert targets
    for target in targets:
        assert (FOLDER / target).exists(), f"{name} links to {target}"
