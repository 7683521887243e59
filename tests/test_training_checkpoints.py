"""Checkpoints and logs: compared by name, set aside where damaged, whole after a kill."""

import json
import os
import stat
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import assert_close

import metajax as mj

# A read by orbax that fails leaves callbacks to an event loop that is closed.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

KEY = jax.random.key(0)
TARGETS = jax.random.normal(jax.random.key(1), (8, 3))


def distance(params, target, key):
    square = ((params.slow["b"] - target) ** 2).sum() + (params.slow["a"] ** 2).sum()
    return square, {}


def start(optimizer=None, **weights):
    slow = {"a": jnp.ones(3, jnp.float32), "b": jnp.full(3, 2.0, jnp.float32)}
    outer = mj.outer_loop(distance, optimizer or optax.adam(0.1))
    return outer, outer.init(mj.Params({}, weights or slow))


def run(folder, steps, problem=None, key=KEY, **options):
    outer, state = problem or start()
    options = {"every": 2, "progress": False, **options}
    sample = lambda targets, key: jax.random.choice(key, targets, (4,))
    return mj.training.fit(
        outer, state, sample, TARGETS, key, steps=steps, checkpoint=folder, **options
    )


def wider(**weights):
    """A problem with other weights, whose loss does not matter: it never takes a step."""
    outer = mj.outer_loop(lambda params, target, key: (jnp.zeros(()), {}), optax.adam(0.1))
    return outer, outer.init(mj.Params({}, weights))


ONES = jnp.ones(3, jnp.float32)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: wider(a=ONES, renamed=ONES), r"\['renamed'\] is missing in the checkpoint"),
        (lambda: wider(a=ONES, b=jnp.ones(4, jnp.float32)), r"float32\[3\] in the .* float32\[4\]"),
        (lambda: wider(a=ONES, b=ONES.astype(jnp.bfloat16)), r"and bfloat16\[3\] in the state"),
        (lambda: start(optax.sgd(0.1)), r"optimizer\[0\]\.mu\.slow\['a'\] is float32\[3\] in the"),
        (lambda: start(optax.nadam(0.1)), "the outer optimizer computes something else"),
        (lambda: start(optax.adam(0.2)), "the outer optimizer computes something else"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(make, error, tmp_path):
    run(tmp_path / "run", 2)
    with pytest.raises(ValueError, match=error):
        run(tmp_path / "run", 4, make())


def test_fast_and_slow_weights_that_change_places_are_refused(tmp_path):
    run(tmp_path / "run", 2)
    outer, state = start()
    swapped = outer.init(mj.Params(state.params.slow, {}))
    with pytest.raises(ValueError, match=r"params\.fast\['a'\] is missing in the checkpoint"):
        run(tmp_path / "run", 4, (outer, swapped))


def test_another_key_is_refused(tmp_path):
    run(tmp_path / "run", 2)
    with pytest.raises(ValueError, match="the key of the run is another one"):
        run(tmp_path / "run", 4, key=jax.random.key(7))


def test_what_has_the_same_name_can_be_taken_over(tmp_path):
    state, _ = run(tmp_path / "run", 2)
    _, other = wider(a=ONES, renamed=ONES, new=ONES)
    rename = {"['b']": "['renamed']"}
    restored, missing = mj.training.restore_by_name(tmp_path / "run", other, rename)
    np.testing.assert_array_equal(restored.params.slow["renamed"], state.params.slow["b"])
    np.testing.assert_array_equal(restored.params.slow["a"], state.params.slow["a"])
    assert ".params.slow['new']" in missing
    assert int(restored.step) == 2
    _, wrong = wider(a=jnp.ones(4, jnp.float32))
    with pytest.raises(ValueError, match=r"float32\[3\] in the checkpoint and float32\[4\]"):
        mj.training.restore_by_name(tmp_path / "run", wrong)
    with pytest.raises(ValueError, match="There is no checkpoint"):
        mj.training.restore_by_name(tmp_path / "nothing", other)


def test_a_name_that_two_leaves_would_get_is_refused(tmp_path):
    run(tmp_path / "run", 2)
    _, other = wider(b=ONES)
    message = r"the leaves .*\['a'\] and .*\['b'\] of the checkpoint the same name, .*\['b'\]"
    with pytest.raises(ValueError, match=message):
        mj.training.restore_by_name(tmp_path / "run", other, {"['a']": "['b']"})


def damage_by_flipping(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)


def damage_by_cutting(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize("damage", [damage_by_flipping, damage_by_cutting, os.remove])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(damage, tmp_path):
    """Every file of the newest checkpoint: either it does not matter, or the older one is used."""
    whole, _ = run(tmp_path / "whole", 6)
    run(tmp_path / "first", 4)
    files = sorted(p.relative_to(tmp_path) for p in (tmp_path / "first" / "4").rglob("*"))
    files = [file for file in files if (tmp_path / file).is_file()]
    assert len(files) > 3
    used_older = 0
    for number, file in enumerate(files):
        folder = tmp_path / f"copy{number}"
        subprocess.run(["cp", "-r", tmp_path / "first", folder], check=True)
        damage(folder / file.relative_to("first"))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            resumed, records = run(folder, 6)
        if any("is damaged" in str(warning.message) for warning in caught):
            assert (folder / "4.damaged").exists()
            assert [record["step"] for record in records] == [4, 6]
            used_older += 1
        assert_close(resumed, whole, 0)
    assert used_older > 0


def test_an_empty_newest_checkpoint_is_set_aside(tmp_path):
    run(tmp_path / "run", 4)
    for file in sorted((tmp_path / "run" / "4").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    with pytest.warns(UserWarning, match="is damaged"):
        _, records = run(tmp_path / "run", 6)
    assert [record["step"] for record in records] == [4, 6]


def test_a_folder_without_a_whole_checkpoint_is_an_error_and_not_a_new_start(tmp_path):
    run(tmp_path / "run", 2)
    for file in (tmp_path / "run" / "2").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(ValueError, match="No checkpoint in"), pytest.warns(match="is damaged"):
        run(tmp_path / "run", 4)
    with pytest.raises(ValueError, match="Remove them to start anew"):
        run(tmp_path / "run", 4)


def test_without_orbax_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ImportError, match=r"pip install 'metajax\[checkpoint\]'"):
        run(tmp_path, 2)
    with pytest.raises(ImportError, match=r"pip install 'metajax\[checkpoint\]'"):
        mj.training.restore_by_name(tmp_path, ())


def test_two_runs_do_not_share_a_folder(tmp_path):
    def again(params, key):
        if not isinstance(key, jax.core.Tracer):
            with pytest.raises(ValueError, match="Another run writes its checkpoints"):
                run(tmp_path / "run", 4)
        return {}

    run(tmp_path / "run", 2, evaluate=again)
    run(tmp_path / "run", 4)


# The log


def steps_of(log):
    lines = log.read_text().splitlines()
    return [json.loads(line, parse_constant=pytest.fail)["step"] for line in lines]


def test_a_record_that_the_checkpoint_implies_is_logged_on_resuming(tmp_path):
    log = tmp_path / "log.jsonl"
    run(tmp_path / "run", 4, log=log)
    first, last = log.read_text().splitlines()
    log.write_text(first + "\n")  # killed between the checkpoint and the record
    run(tmp_path / "run", 4, log=log)
    assert steps_of(log) == [2, 4]
    assert json.loads(log.read_text().splitlines()[1])["loss"] == json.loads(last)["loss"]


def test_a_torn_line_is_cut_off(tmp_path):
    log = tmp_path / "log.jsonl"
    run(tmp_path / "run", 4, log=log)
    log.write_text(log.read_text()[:-20])
    run(tmp_path / "run", 6, log=log)
    assert steps_of(log) == [2, 4, 6]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("Started on Monday", "Line 2 of .*log.jsonl is not a record of fit .*of its own"),
        ("", "Line 2 of .* is not a record"),
        ("[2]", 'it has no whole number "step"'),
        ('{"loss": 1.0}', 'it has no whole number "step"'),
        ('{"step": true}', 'it has no whole number "step"'),
        ('{"step": 3, "loss": NaN}', "NaN is not JSON"),
        ("\udcff", "Line 2 of .* is not a record"),
        ("[" * 100_000, "Line 2 of .* is not a record"),
        ('{"step": 2}', "is of step 2, after one of step 2: several runs"),
    ],
)
def test_a_line_that_is_no_record_is_found_before_the_first_step(line, error, tmp_path):
    log = tmp_path / "log.jsonl"
    run(tmp_path / "run", 2, log=log)
    with log.open("a", errors="surrogateescape") as file:
        file.write(line + "\n")
    before = log.read_bytes()
    with pytest.raises(ValueError, match=error):
        run(tmp_path / "run", 4, log=log)
    assert log.read_bytes() == before
    assert {folder.name for folder in (tmp_path / "run").glob("[0-9]*")} == {"2"}


def test_a_file_that_is_no_log_is_not_cut(tmp_path):
    """A torn line begins as a record does; any other last line is not one."""
    notes = tmp_path / "notes"
    notes.write_text('{"name": "settings"}')
    with pytest.raises(ValueError, match=r"Line 1 of .*notes is not a record"):
        run(None, 2, log=notes)
    assert notes.read_text() == '{"name": "settings"}'


def test_a_log_of_another_run_is_refused(tmp_path):
    mine, other = tmp_path / "mine.jsonl", tmp_path / "other.jsonl"
    run(tmp_path / "run", 4, log=mine)
    run(None, 4, log=other)
    before = other.read_bytes()
    with pytest.raises(ValueError, match=r"of another run, up to step 4, and .* at step 4"):
        run(tmp_path / "run", 6, log=other)
    with pytest.raises(ValueError, match=r"up to step 4, and .* at step 0.*a log of its own"):
        run(None, 6, log=other)
    assert other.read_bytes() == before
    other.write_text('{"step": 6}\n')
    with pytest.raises(ValueError, match="up to step 6, and this run starts at step 4"):
        run(tmp_path / "run", 6, log=other)


def test_a_run_without_checkpoints_goes_on_in_its_log(tmp_path):
    log = tmp_path / "log.jsonl"
    outer, _ = start()
    state, _ = run(None, 2, log=log)
    run(None, 4, (outer, state), log=log)
    assert steps_of(log) == [2, 4]


def test_records_after_the_checkpoint_that_is_used_come_again(tmp_path):
    log = tmp_path / "log.jsonl"
    run(tmp_path / "run", 4, log=log)
    for file in (tmp_path / "run" / "4").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.warns(UserWarning, match="is damaged"):
        run(tmp_path / "run", 6, log=log)
    assert steps_of(log) == [2, 4, 6]


def test_a_log_that_cannot_be_written_is_found_before_the_first_step(tmp_path):
    calls = []
    outer, state = start()
    sample = lambda targets, key: calls.append(key) or targets
    with pytest.raises(OSError, match="nowhere"):
        mj.training.fit(
            outer, state, sample, TARGETS, KEY, steps=2, log=tmp_path / "nowhere" / "log"
        )
    assert len(calls) <= 1  # for the number of tasks


def test_an_evaluation_that_raises_is_found_before_the_first_step(tmp_path):
    def broken(params, key):
        raise RuntimeError("no such attribute")

    with pytest.raises(RuntimeError, match="no such attribute"):
        run(tmp_path / "run", 100, evaluate=broken, every=100)
    assert not list((tmp_path / "run").glob("[0-9]*"))


def test_an_evaluation_that_raises_later_leaves_the_state(tmp_path):
    def broken(params, key):
        if not isinstance(key, jax.core.Tracer):
            raise RuntimeError("later")
        return {}

    with pytest.raises(RuntimeError, match="later"):
        run(tmp_path / "run", 4, evaluate=broken)
    _, records = run(tmp_path / "run", 4)
    assert [record["step"] for record in records] == [4]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_log_is_found_before_the_first_step(tmp_path):
    log = tmp_path / "log"
    log.write_text("")
    log.chmod(stat.S_IREAD)
    with pytest.raises(OSError, match="log"):
        run(tmp_path / "run", 2, log=log)


FULL_DISK = """
import resource, signal, sys
sys.path.insert(0, sys.argv[1])
import jax
jax.config.update("jax_enable_x64", True)
import test_training_checkpoints as t
folder, limit = sys.argv[2], int(sys.argv[3])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
t.run(folder, 2)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    t.run(folder, 4)
except Exception as error:
    print(type(error).__name__)
"""


def test_a_full_disk_during_a_save_leaves_the_checkpoint_before(tmp_path):
    """A limit of the size of files stands for a full disk."""
    command = [sys.executable, "-c", FULL_DISK, os.path.dirname(__file__), tmp_path / "run", "200"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip(), "the save failed"
    resumed, _ = run(tmp_path / "run", 4)
    whole, _ = run(tmp_path / "whole", 4)
    assert_close(resumed, whole, 1e-6)


def test_a_run_may_go_on_with_another_number_of_devices(tmp_path):
    """From four devices to four, from one to four and from four to one."""
    code = f"""
import os, sys
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
sys.path.insert(0, {os.path.dirname(__file__)!r})
import jax, numpy as np
import test_training_checkpoints as t
mesh = jax.make_mesh((4,), ("tasks",), axis_types=(jax.sharding.AxisType.Auto,))
everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
outer, state = t.start()
states = {{1: state, 4: jax.device_put(state, everywhere)}}
whole, _ = t.run(None, 4, (outer, state))
for before, after in ((4, 4), (1, 4), (4, 1)):
    folder = {str(tmp_path)!r} + f"/{{before}}-{{after}}"
    t.run(folder, 2, (outer, states[before]))
    resumed, _ = t.run(folder, 4, (outer, states[after]))
    leaf = resumed.params.slow["b"]
    assert len(leaf.sharding.device_set) == after
    np.testing.assert_array_equal(leaf, whole.params.slow["b"])
print("equal")
"""  # noqa: E501
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "equal", done.stderr[-2000:]
