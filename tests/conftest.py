"""The suite runs in float64 and without silent rank promotion, and a skip that is not expected fails CI."""

import os
import pathlib
import tempfile

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Most of the suite's time is compilation: LLVM does not optimise, which takes a quarter of it away, and the workers of
# one run share what they compile; the next run starts afresh.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
if "PYTEST_XDIST_WORKER" not in os.environ:
    _compiled = tempfile.TemporaryDirectory(prefix="metajax-tests-")
    os.environ["METAJAX_TEST_PROGRAMS"] = _compiled.name
jax.config.update("jax_compilation_cache_dir", os.environ["METAJAX_TEST_PROGRAMS"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

_PACKS = pathlib.Path(__file__).parents[2] / "shared" / "data"
if _PACKS.is_dir():
    os.environ.setdefault("METAJAX_DATA", str(_PACKS))

ALLOWED_SKIPS = {
    "tests/test_benchmarks.py::test_alphabets_are_learned",
    "tests/test_data.py::test_omniglot_is_read_whole",
    "tests/test_packs.py::test_the_packs_are_read_whole",
    "tests/test_sentence.py::test_the_pretrained_encoder_is_that_of_another_library",
}
"""Node ids that may be skipped in CI: what needs a data pack, or the pretrained encoder, which installs by hand."""

collect_ignore = ["reference/make_reference.py"]  # it needs the peers; the tests read what it wrote
_skipped = []


@pytest.fixture(autouse=True, scope="module")
def unload_programs():
    """After each file: Linux allows a process 65 530 mappings of memory, of which those of 28 tests took 5 000."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def packs():
    """Skips where the data packs are not at hand; see `metajax.data.omniglot`."""
    if "METAJAX_DATA" not in os.environ:
        pytest.skip("METAJAX_DATA does not name a folder with data packs")


def pytest_runtest_logreport(report):
    if report.skipped and report.nodeid not in ALLOWED_SKIPS:
        _skipped.append(report.nodeid)


def pytest_sessionfinish(session, exitstatus):
    if _skipped and os.environ.get("CI") and exitstatus == 0:
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter):
    if _skipped and os.environ.get("CI"):
        terminalreporter.write_line(f"Skipped without being allowed to: {_skipped}", red=True)
