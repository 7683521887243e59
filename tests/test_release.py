"""What is released: a source distribution, a wheel built of it, and the wheel without a repository.

The wheel is installed into a folder of its own, and used from outside the repository.
"""

import importlib.metadata
import os
import pathlib
import subprocess
import sys
import tarfile
import zipfile

import jaxlib
import pytest

import metajax as mj
from metajax.__main__ import missing_packages

pytestmark = pytest.mark.xdist_group("release")  # one worker builds it for all
ROOT = pathlib.Path(__file__).parents[1]
IMPORT_ALL = """
import importlib, pkgutil
import metajax
for module in pkgutil.walk_packages(metajax.__path__, "metajax."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(metajax.__file__, metajax.__version__)
"""
BROKEN = """
import jax
jax.numpy.ones(1).block_until_ready()  # too late for the flag that jaxlib 0.10.2 needs
tanh = jax.numpy.tanh
jax.numpy.tanh = lambda x: 0.9 * tanh(x) + 0.1 * jax.lax.stop_gradient(tanh(x))
import runpy
runpy.run_module("metajax", run_name="__main__")
"""


def run(*arguments, cwd, **environment):
    """What a Python in another folder prints, and its exit code."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    return done.stdout, done.stderr, done.returncode


def built(kind, source, folder):
    """The file that hatchling builds of this kind from the files in `source`."""
    _, said, code = run("-m", "hatchling", "build", "-t", kind, "-d", folder, cwd=source)
    assert code == 0, said
    (file,) = folder.iterdir()
    return file


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A folder with the installed wheel, which is built of the source distribution alone."""
    folder = tmp_path_factory.mktemp("release")
    with tarfile.open(built("sdist", ROOT, folder / "sdist")) as archive:
        archive.extractall(folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    wheel = built("wheel", source, folder / "wheel")
    pip = ("-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target")
    _, said, code = run(*pip, folder / "installed", wheel, cwd=folder)
    assert code == 0, said
    return wheel, folder / "installed"


def files_of(folder):
    """Names of all files of the library below this folder, but for what Python compiled."""
    paths = (path for path in (folder / "metajax").rglob("*") if path.is_file())
    return {str(path.relative_to(folder)) for path in paths if path.suffix != ".pyc"}


def test_the_wheel_has_every_file_of_the_library(release):
    wheel, installed = release
    assert "metajax/py.typed" in files_of(ROOT)
    assert files_of(installed) == files_of(ROOT)
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    folders = {name.partition("/")[0] for name in names}
    assert folders == {"metajax", f"metajax-{mj.__version__}.dist-info"}


def test_the_wheel_is_imported_and_checks_itself_outside_of_the_repository(release, tmp_path):
    _, installed = release
    found, said, code = run("-c", IMPORT_ALL, cwd=tmp_path, PYTHONPATH=str(installed))
    assert code == 0, said
    assert found.split() == [str(installed / "metajax" / "__init__.py"), mj.__version__]
    found, said, code = run("-m", "metajax", cwd=tmp_path, PYTHONPATH=str(installed))
    assert code == 0, said
    assert found.splitlines()[-1] == "all right"
    for expected in (f"metajax {mj.__version__}", f"jaxlib {jaxlib.__version__}", "devices: "):
        assert expected in found
    assert "extra examples: installed" in found and "extra test" not in found


def test_a_wrong_gradient_and_the_fault_of_jaxlib_end_with_exit_code_1(tmp_path):
    found, said, code = run("-c", BROKEN, cwd=tmp_path, XLA_FLAGS="")
    assert code == 1, said
    assert found.splitlines()[-1] == "something is wrong"
    assert "Verdict: WRONG for fast['first']" in found
    has_fault = jaxlib.__version__ == "0.10.2"
    assert ("of 40000 are WRONG" in found) == has_fault


def test_packages_that_are_missing_are_named_by_their_extra(monkeypatch):
    version = importlib.metadata.version

    def without_grain(name):
        if name == "grain":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    before = missing_packages()
    assert set(before) >= {"checkpoint", "data", "examples"} and "test" not in before
    assert "grain" not in before["data"]
    monkeypatch.setattr(importlib.metadata, "version", without_grain)
    assert missing_packages() == {**before, "data": [*before["data"], "grain"]}
