"""Versions of JAX, and the fault of jaxlib 0.10.2 that importing metajax avoids."""

import os
import pathlib
import subprocess
import sys

import jaxlib
import pytest

import metajax as mj
from metajax import _versions

REPRODUCER = """
{first}
import jax, jax.numpy as jnp, numpy as np
{second}
jax.config.update("jax_enable_x64", {wide})
square = jax.jit(jax.vmap(lambda row: jnp.sum((jnp.eye(3, dtype=row.dtype) @ row) ** 2)))
rows = np.zeros(({number}, 3), np.{dtype})
rows[:, 0] = np.arange({number})
print(int((np.asarray(square(rows)) != rows[:, 0] ** 2).sum()))
"""


def count_wrong(number=40_000, dtype="float32", first="import metajax", second="", flags=""):
    """How many rows a fresh process computes wrongly."""
    code = REPRODUCER.format(
        first=first, second=second, number=number, dtype=dtype, wide=dtype == "float64"
    )
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout), done.stderr


@pytest.mark.parametrize(("number", "dtype"), [(40_000, "float32"), (20_000, "float64")])
def test_importing_metajax_makes_products_right(number, dtype):
    assert count_wrong(number, dtype)[0] == 0


def test_flags_of_the_user_stay():
    flags = "--xla_backend_optimization_level=1"
    second = f"import os; assert {flags!r} in os.environ['XLA_FLAGS'].split()"
    assert count_wrong(flags=flags, second=second)[0] == 0


@pytest.mark.skipif(jaxlib.__version__ != "0.10.2", reason="the fault is of jaxlib 0.10.2")
def test_where_it_is_too_late_a_warning_says_what_to_do():
    started = "import jax; jax.numpy.ones(1).block_until_ready()"
    wrong, said = count_wrong(first=started, second="import metajax")
    assert wrong > 0
    assert "RuntimeWarning: jaxlib 0.10.2" in said and "XLA_FLAGS=" in said


def test_other_versions_are_left_alone(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    _versions.avoid_jaxlib_fault("0.12.0")
    assert os.environ["XLA_FLAGS"] == ""
    monkeypatch.setattr(_versions, "_backend_has_started", lambda: False)
    _versions.avoid_jaxlib_fault("0.10.2")
    assert os.environ["XLA_FLAGS"] == "--xla_cpu_experimental_ynn_fusion_type=-reduce"
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type=")
    _versions.avoid_jaxlib_fault("0.10.2")
    assert os.environ["XLA_FLAGS"] == "--xla_cpu_experimental_ynn_fusion_type="
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type=dot")
    with pytest.warns(RuntimeWarning, match="wrongly on a CPU"):
        _versions.avoid_jaxlib_fault("0.10.2")


@pytest.mark.parametrize("version", ["0.10.2", "0.12.0", "0.12.0.1", "0.13.1", "1.0.0"])
def test_supported_versions_pass(version):
    _versions.check_jax_version(version)


@pytest.mark.parametrize("version", ["0.9.2", "0.10.1", "0.11.1", "0.4.30"])
def test_other_versions_are_refused_with_those_that_are_supported(version):
    with pytest.raises(ImportError, match=rf"supports JAX 0\.10\.2, and 0\.12.*JAX {version}"):
        _versions.check_jax_version(version)


def test_the_version_and_the_types_are_there():
    assert mj.__version__ == "0.1.0"
    assert (pathlib.Path(mj.__file__).parent / "py.typed").exists()
