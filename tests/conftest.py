"""The suite runs in float64, without rank promotion, and an unexpected skip fails CI."""

import gc
import os
import pathlib
import tempfile

import jaxlib

# Most of the suite's time is compilation. LLVM does not optimise, does not divide small programs
# among threads, and jaxlib 0.10.2 uses its older emitters, which compile twice as fast. The user's
# own flags stay. This must happen before JAX starts its backend.
FAST_TO_COMPILE = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
]
if jaxlib.__version__ == "0.10.2":  # others abort on a flag that they do not know
    FAST_TO_COMPILE.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FAST_TO_COMPILE])

import jax  # noqa: E402
import pytest  # noqa: E402

import metajax  # noqa: E402, F401  # it adds the flag that jaxlib 0.10.2 needs

# Tracing makes many small objects that live long; collecting them less often saves time.
gc.set_threshold(200_000, 50, 50)

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")

# The workers of one run share what they compile. The next run starts afresh, unless the variable
# METAJAX_TEST_PROGRAMS names a folder to keep compiled programs in.
if "METAJAX_TEST_PROGRAMS" not in os.environ:
    _compiled = tempfile.TemporaryDirectory(prefix="metajax-tests-")
    os.environ["METAJAX_TEST_PROGRAMS"] = _compiled.name
jax.config.update("jax_compilation_cache_dir", os.environ["METAJAX_TEST_PROGRAMS"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

_DATA_FILES = pathlib.Path(__file__).parents[2] / "shared" / "data"
if _DATA_FILES.is_dir():
    os.environ.setdefault("METAJAX_DATA", str(_DATA_FILES))

ALLOWED_SKIPS = {
    "tests/test_benchmarks.py::test_a_stream_of_characters_is_learned_and_forgotten",
    "tests/test_benchmarks.py::test_alphabets_are_learned",
    *(
        f"tests/test_examples.py::test_a_published_report_is_drawn[{name}]"
        for name in ("alignment", "characters", "speech", "video")
    ),
    "tests/test_benchmarks.py::test_attributions_are_scored_and_drawn",
    "tests/test_benchmarks.py::test_attributions_are_timed_against_trainings_and_pytorch",
    "tests/test_benchmarks.py::test_one_shot_arms_are_trained_and_tested",
    "tests/test_benchmarks.py::test_nets_read_beyond_the_trained_length",
    "tests/test_benchmarks.py::test_optimizers_are_tuned_and_drawn",
    "tests/test_benchmarks.py::test_the_ladder_compares_learners_on_the_same_tasks",
    "tests/test_data_data_files.py::test_the_data_files_are_read_whole",
    "tests/test_data_prepare.py::test_all_intents",
    "tests/test_data_prepare.py::test_all_of_mnist",
    "tests/test_data_prepare.py::test_all_spoken_digits",
    "tests/test_data_prepare.py::test_the_files_at_hand_have_the_known_checksums",
    "tests/test_examples.py::test_an_example_runs[alignment]",
    "tests/test_examples.py::test_an_example_runs[annotations]",
    "tests/test_examples.py::test_an_example_runs[characters]",
    "tests/test_examples.py::test_an_example_runs[drifting_stream]",
    "tests/test_examples.py::test_an_example_runs[groceries]",
    "tests/test_examples.py::test_an_example_runs[intents]",
    "tests/test_examples.py::test_an_example_runs[longer_sequences]",
    "tests/test_examples.py::test_an_example_runs[omniglot]",
    "tests/test_examples.py::test_an_example_runs[speech]",
    "tests/test_examples.py::test_an_example_runs[video]",
    "tests/test_nets_pretrained.py::test_the_pretrained_encoder_is_that_of_another_library",
    "tests/test_training_checkpoints.py::test_a_read_only_log_is_found_before_the_first_step",
    "tests/test_versions.py::test_where_it_is_too_late_a_warning_says_what_to_do",
}
"""Node ids that may be skipped in CI: they need a data file, the pretrained encoder or no root."""

CORE = ("differentiate", "inner", "outer", "tree", "checks", "algorithms")
"""Rooms whose tests are marked `core`, but for those that are marked `thorough`."""

CORE_ALGORITHMS = ("maml", "imaml", "protonets")
"""The rows of the table of algorithms that are marked `core`."""

collect_ignore = [
    "reference/make_reference.py",  # it needs the peers; the tests read what it wrote
    "stubs",  # they stand in for libraries in processes that the tests start
]
_skipped = []


def pytest_collection_modifyitems(items):
    for item in items:
        in_room = item.path.stem.removeprefix("test_").startswith(CORE)
        row = getattr(item, "callspec", None) and item.callspec.params.get("name")
        in_table = item.path.stem == "test_algorithms" and row is not None
        if in_table and row not in CORE_ALGORITHMS:
            continue
        if in_room and not item.get_closest_marker("thorough"):
            item.add_marker(pytest.mark.core)


@pytest.fixture(autouse=True, scope="module")
def unload_programs():
    """After each file: Linux allows a process 65 530 memory mappings; 28 tests took 5 000."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def packs():
    """Skips where the data files are not available; see `metajax.data.omniglot`."""
    if "METAJAX_DATA" not in os.environ:
        pytest.skip("METAJAX_DATA does not name a folder with data files")


def pytest_runtest_logreport(report):
    if report.skipped and report.nodeid not in ALLOWED_SKIPS:
        _skipped.append(report.nodeid)


def pytest_sessionfinish(session, exitstatus):
    if _skipped and os.environ.get("CI") and exitstatus == 0:
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter):
    if _skipped and os.environ.get("CI"):
        terminalreporter.write_line(f"Skipped without being allowed to: {_skipped}", red=True)
