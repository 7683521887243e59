"""What was learned, in one file: names, shapes and dtypes are checked, and damage is found."""

import json
import os
import pathlib
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import metajax as mj

FIRST_FORMAT = pathlib.Path(__file__).parent / "reference" / "saved_format_1.npz"
"""A file that the first version of `save` wrote; it is never written anew."""

PARAMS = mj.Params(
    fast={"head": {"kernel": jnp.arange(6, dtype=jnp.float32).reshape(2, 3)}},
    slow=[jnp.array([1.5, -2.0, 3.1e-5], jnp.bfloat16), jnp.zeros((0, 2), jnp.float16)],
    rule=(jnp.float32(0.1), jnp.array([True, False]), jnp.array(7, jnp.int8)),
)


def assert_same(found, expected):
    """The same tree, with every leaf the same in type and bytes."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "learned.npz"
    mj.save(path, PARAMS)
    return path


def test_what_was_saved_is_loaded_bit_for_bit(path):
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    assert_same(mj.load(path, like=zeros), PARAMS)
    abstract = jax.eval_shape(lambda: zeros)
    assert_same(mj.load(str(path), like=abstract), PARAMS)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "bfloat16", "float64", "int4", "complex64"])
def test_every_dtype_survives(dtype, tmp_path):
    leaf = jnp.arange(5).astype(dtype)
    mj.save(tmp_path / "leaf", leaf)
    assert_same(mj.load(tmp_path / "leaf", like=leaf), leaf)


def test_a_state_and_plain_numbers_are_saved_too(tmp_path):
    outer = mj.outer_loop(lambda params, task, key: (params.slow, {}), optax.adam(0.1))
    state = outer.init(mj.Params({}, 0.25))
    mj.save(tmp_path / "state", state)
    loaded = mj.load(tmp_path / "state", like=outer.init(mj.Params({}, 1.0)))
    assert loaded.params.slow == 0.25
    assert type(loaded) is type(state)


def test_numpy_reads_it_by_name_without_pickle(path):
    with np.load(path, allow_pickle=False) as entries:
        kernel = entries[".fast['head']['kernel']"]
        header = json.loads(str(entries["metajax"]))
    np.testing.assert_array_equal(kernel, PARAMS.fast["head"]["kernel"])
    assert header["format"] == 1
    assert header["leaves"][".slow[0]"] == "bfloat16[3]"


def test_a_file_of_the_first_version_is_read():
    assert_same(mj.load(FIRST_FORMAT, like=PARAMS), PARAMS)


def test_another_process_reads_and_predicts(tmp_path):
    make = "mj.nets.functional(nnx.Linear(3, 2, rngs=nnx.Rngs(%d)))"
    apply, params = eval(make % 0, {"mj": mj, "nnx": nnx})
    mj.save(tmp_path / "net.npz", params)
    code = f"""
import jax.numpy as jnp, metajax as mj
from flax import nnx
apply, start = {make % 1}
print(apply(mj.load("net.npz", like=start), jnp.ones((1, 3), jnp.float32)).tolist())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    expected = apply(params, jnp.ones((1, 3), jnp.float32))
    np.testing.assert_allclose(json.loads(done.stdout), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("like", "errors"),
    [
        (
            PARAMS._replace(fast={"top": PARAMS.fast["head"]}),
            [
                r"missing in the file are \[\"\.fast\['top'\]\['kernel'\]\"\]",
                r"foreign in the file are \[\"\.fast\['head'\]\['kernel'\]\"\]",
            ],
        ),
        (
            PARAMS._replace(rule=PARAMS.fast, fast=PARAMS.rule),
            [r"missing .*\.rule\['head'\]", r"foreign .*\.rule\[0\]"],
        ),
        (
            PARAMS._replace(fast={"head": {"kernel": jnp.zeros((3, 2), jnp.float32)}}),
            [r"\['kernel'\] is float32\[2, 3\] in the file and not float32\[3, 2\]"],
        ),
        (
            PARAMS._replace(fast={"head": {"kernel": jnp.zeros((2, 3), jnp.bfloat16)}}),
            [r"is float32\[2, 3\] in the file and not bfloat16\[2, 3\]"],
        ),
    ],
)
def test_what_does_not_fit_is_named(like, errors, path):
    for error in errors:
        with pytest.raises(ValueError, match=rf"learned\.npz does not fit `like`: .*{error}"):
            mj.load(path, like=like)


def test_a_damaged_file_is_refused(path):
    """Whatever byte is flipped, the values are right or there is an error."""
    whole = path.read_bytes()
    refused = 0
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        path.write_bytes(damaged)
        try:
            loaded = mj.load(path, like=PARAMS)
        except ValueError:
            refused += 1
        else:
            assert_same(loaded, PARAMS)
    assert refused > len(whole) / 6
    for end in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"learned\.npz is damaged, or not a file of metajax"):
            mj.load(path, like=PARAMS)


@pytest.mark.parametrize("write", [np.savez, np.save, pickle.dump])
def test_other_files_are_refused(write, tmp_path):
    with open(tmp_path / "other", "wb") as file:
        write(*((np.ones(3), file) if write is pickle.dump else (file, np.ones(3))))
    with pytest.raises(ValueError, match="is damaged, or not a file of metajax"):
        mj.load(tmp_path / "other", like=PARAMS)


def test_a_file_that_is_not_there():
    with pytest.raises(FileNotFoundError):
        mj.load("nothing.npz", like=PARAMS)


def test_a_file_of_a_later_version_is_refused(tmp_path):
    header = np.array(json.dumps({"format": 2, "leaves": {}}))
    np.savez(tmp_path / "later.npz", metajax=header)
    with pytest.raises(ValueError, match=r"later\.npz has the format 2, .* reads up to 1"):
        mj.load(tmp_path / "later.npz", like=PARAMS)


def test_numpy_values_that_jax_has_no_dtype_for_are_refused_by_name(tmp_path):
    fits = {"seen": np.array([3, -7]), "rate": np.array([0.5, np.nan]), "step": np.int64(9)}
    with jax.enable_x64(False):
        mj.save(tmp_path / "fits", fits)
        found = mj.load(tmp_path / "fits", like=fits)
        for name, dtype in {"seen": "int32", "rate": "float32", "step": "int32"}.items():
            assert found[name].dtype == dtype
            np.testing.assert_array_equal(found[name], fits[name])
        for wide in (np.array([2**40 + 5, 3]), np.array([1 + 1e-12]), np.float64(1e60)):
            message = rf"\['wide'\] is {wide.dtype} of NumPy, and as .*32, .*jax_enable_x64"
            with pytest.raises(ValueError, match=message):
                mj.save(tmp_path / "wide", {"fits": np.ones(2), "wide": wide})
    assert os.listdir(tmp_path) == ["fits"]
    tree = {"seen": np.array([2**40 + 5, 3]), "rate": np.array([1 + 1e-12])}
    mj.save(tmp_path / "wide", tree)
    assert_same(mj.load(tmp_path / "wide", like=tree), jax.tree.map(jnp.asarray, tree))


def test_a_random_key_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"\['seed'\] is a random key"):
        mj.save(tmp_path / "keys", {"seed": jax.random.key(0)})
    assert os.listdir(tmp_path) == []


def test_a_save_that_fails_leaves_the_old_file(path, monkeypatch):
    def full_disk(*args, **kwargs):
        args[0].write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="No space left"):
        mj.save(path, jax.tree.map(jnp.zeros_like, PARAMS))
    assert os.listdir(path.parent) == [path.name]
    assert_same(mj.load(path, like=PARAMS), PARAMS)
