"""Tasks that are saved and come back."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax as mj
from metajax.data.tasks.fingerprints import fingerprint
from metajax.data.tasks.pixels import image_completion
from metajax.data.tasks.replay import load_tasks, save_tasks

KEY = jax.random.key(7)
EPISODES = mj.data.episodes(2, 1, 1)


@functools.cache
def pictures(seed=0):
    """Eight classes of six images of two groups, with side information."""
    image = np.random.default_rng(seed).integers(0, 255, (48, 4, 4, 1)).astype(np.uint8)
    names = [f"{n % 2}/{n}" for n in range(8)]
    info = {"icon": image[:8, 0], "height": np.ones(8)}
    return mj.data.dataset(image, np.arange(48) // 6, names=names, info=info, scale=255)


@functools.cache
def turned():
    return mj.data.rotated(pictures())


@functools.cache
def several():
    rng = np.random.default_rng(0)
    value = {
        "wave": rng.integers(-9, 9, (20, 5)).astype(np.int16),
        "vector": rng.normal(size=(20, 3)),
    }
    x = mj.data.as_modalities(value, {"wave": np.arange(20) % 3 > 0})
    return mj.data.dataset(x, np.arange(20) // 5, scale={"wave": 32768})


TASKS = {
    "episodes": (mj.data.episodes(3, 1, 2), pictures),
    "rotated": (mj.data.episodes(9, 1, 2), turned),
    "varied modalities": (mj.data.varied_episodes((2, 4), 9, 2), several),
    "grouped": (mj.data.grouped_episodes(4, 1, 2), turned),
    "semi-supervised": (mj.data.semi_supervised(2, 1, 1, unlabelled=2, distractors=1), turned),
    "continual": (mj.data.continual(2, 3, 1, 1), turned),
    "modes": (
        mj.data.task_modes(
            {"all": mj.data.episodes(3, 1, 2), "group": mj.data.grouped_episodes(3, 1, 2)}
        ),
        pictures,
    ),
    "generated": (mj.data.gaussian_processes(3, 4), tuple),
}


@pytest.mark.parametrize("name", TASKS)
def test_tasks_come_back_bit_for_bit(name, tmp_path):
    sample, make = TASKS[name]
    source, path = make(), tmp_path / "tasks.npz"
    save_tasks(path, sample, source, KEY, tasks=20)
    again = load_tasks(path, source)
    draw = mj.data.meta_batch(sample, 20)
    # Compiled sums and sines differ a little from those that were saved.
    drawn = draw(source, KEY) if name == "generated" else jax.jit(draw)(source, KEY)
    assert jax.tree.structure(again) == jax.tree.structure(drawn)
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(drawn), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_the_same_tasks_may_be_loaded_as_they_are_stored(tmp_path):
    save_tasks(tmp_path / "tasks", EPISODES, pictures(), KEY, tasks=3)
    scaled = load_tasks(tmp_path / "tasks", pictures())
    stored = load_tasks(tmp_path / "tasks", dataclasses.replace(pictures(), scale=None))
    assert stored.query.x.dtype == jnp.uint8
    np.testing.assert_array_equal(stored.query.x / np.float32(255), scaled.query.x)


def test_the_file_describes_its_origin_and_holds_no_data(tmp_path):
    x = np.random.default_rng(0).normal(size=(4000, 50))
    source, path = mj.data.dataset(x, np.arange(4000) // 20), tmp_path / "tasks"
    save_tasks(path, mj.data.episodes(5, 1, 5), source, KEY, tasks=100)
    assert list(tmp_path.iterdir()) == [path] and path.stat().st_size < 20_000
    about = json.loads(str(np.load(path)["about"]))
    assert about["versions"]["jax"] == jax.__version__ and "metajax" in about["versions"]
    assert about["data"] == fingerprint(source)
    assert about["classes"] == 200 and about["examples"] == 4000
    assert about["key"] == ["threefry2x32", [0, 7]]


def test_saved_tasks_are_never_overwritten(tmp_path):
    path = tmp_path / "tasks.npz"
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="is not overwritten; choose another name"):
        save_tasks(path, EPISODES, pictures(), KEY)
    assert path.read_bytes() == b"mine"


def test_of_two_processes_one_gets_the_name(tmp_path):
    path = tmp_path / "tasks.npz"

    def sample(dataset, key):
        path.write_bytes(b"of another process")
        return EPISODES(dataset, key)

    with pytest.raises(FileExistsError):
        save_tasks(path, sample, pictures(), KEY, tasks=2)
    assert path.read_bytes() == b"of another process"


def test_another_data_set_is_refused(tmp_path):
    path, source = tmp_path / "tasks.npz", pictures()
    save_tasks(path, EPISODES, source, KEY, tasks=2)
    others = [
        pictures(seed=1),
        dataclasses.replace(source, names=tuple(f"another/{n}" for n in range(8))),
        dataclasses.replace(source, info=()),
        mj.data.select(source, [True] * 7 + [False]),
        turned(),
    ]
    for other in others:
        with pytest.raises(
            ValueError,
            match=r"needs the data set of 8 classes and 48 examples with fingerprint \w{12}, got "
            r"the data set of",
        ):
            load_tasks(path, other)
    with pytest.raises(ValueError, match=r"needs the data set of 8 .*, got no data set, \(\)"):
        load_tasks(path, ())
    save_tasks(tmp_path / "made", mj.data.sinusoids(1, 1), (), KEY, tasks=2)
    with pytest.raises(ValueError, match=r"needs no data set, \(\), got the data set of 8 classes"):
        load_tasks(tmp_path / "made", source)


def test_tasks_of_several_data_sets_are_refused(tmp_path):
    first = lambda both, key: EPISODES(both["a"], key)
    with pytest.raises(
        ValueError, match="several data sets cannot be recorded, got dict; save those of each"
    ):
        save_tasks(tmp_path / "tasks", first, {"a": pictures(), "b": turned()}, KEY)


def test_damage_is_noticed(tmp_path):
    """Whichever byte changes: an error that says so, or the same tasks."""
    path, source = tmp_path / "tasks.npz", pictures()
    save_tasks(path, mj.data.varied_episodes((2, 3), 5, 1), source, KEY, tasks=2)
    whole, right = path.read_bytes(), load_tasks(path, source)
    refused = 0
    rng = np.random.default_rng(0)
    for place in rng.choice(len(whole), 150, replace=False):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            jax.tree.map(np.testing.assert_array_equal, load_tasks(path, source), right)
        except ValueError as error:
            assert "is damaged, or not a file of save_tasks" in str(error)  # noqa: PT017
            refused += 1
    assert refused > 75
    for content in (b"", b"no", whole[:200], whole[:-30]):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"is damaged, or not a file of save_tasks: File is not a zip"
        ):
            load_tasks(path, source)
    with path.open("wb") as file:
        np.savez(file, x=np.zeros(3))
    with pytest.raises(ValueError, match=r"is damaged, or not a file of save_tasks: .*about"):
        load_tasks(path, source)
    with path.open("wb") as file:
        np.savez(file, about=np.array(json.dumps({"format": 9, "arrays": []})))
    with pytest.raises(ValueError, match="it has format 9"):
        load_tasks(path, source)
    with pytest.raises(FileNotFoundError):
        load_tasks(tmp_path / "other", source)


def changed(change):
    """Episodes whose support x are changed."""

    def sample(dataset, key):
        task = EPISODES(dataset, key)
        return task._replace(support=task.support._replace(x=change(task.support.x)))

    return sample


def masked(dataset, key):
    task = EPISODES(dataset, key)
    x = task.query.x
    present = {name: jnp.zeros_like(here) for name, here in x.present.items()}
    return task._replace(query=task.query._replace(x=x._replace(present=present)))


REFUSED = {
    "flipped": (changed(lambda x: x[:, :, ::-1]), pictures),
    "noisy": (changed(lambda x: x + 0.1), pictures),
    "mixed": (changed(lambda x: (x + x[::-1]) / 2), pictures),
    "inverted": (changed(lambda x: 1 - x), pictures),
    "inverted images": (changed(lambda x: 1 - x if x.dtype == jnp.float32 else x), pictures),
    "clipped": (changed(lambda x: jnp.clip(x, 0, 1)), pictures),
    "cropped": (changed(lambda x: x[:, :2, :2]), pictures),
    "moved": (changed(lambda x: jnp.roll(x, 1, axis=1)), pictures),
    "turned": (changed(lambda x: jnp.rot90(x, axes=(1, 2))), pictures),
    "masked": (masked, several),
    "pixels": (image_completion(3, 3), pictures),
    "all pixels": (image_completion(3), pictures),
}


@pytest.mark.parametrize("name", REFUSED)
def test_changed_examples_are_refused(name, tmp_path):
    sample, make = REFUSED[name]
    with pytest.raises(
        ValueError, match=r"Only tasks whose x are rows of the data set .* from rotated"
    ):
        save_tasks(tmp_path / "tasks", sample, make(), KEY, tasks=3)
    assert not list(tmp_path.iterdir())


def test_other_errors_say_what_to_do(tmp_path):
    path = tmp_path / "tasks"

    def with_context(dataset, key):
        return mj.data.sinusoids(1, 1)(dataset, key)._replace(context={"a": jnp.ones(2)})

    with pytest.raises(ValueError, match=r"context must be one array to be recorded, got .*'a'"):
        save_tasks(path, with_context, (), KEY, tasks=2)
    with pytest.raises(ValueError, match="must draw a Task, got Batch"):
        save_tasks(path, mj.data.batches(3), pictures(), KEY, tasks=2)
    with pytest.raises(ValueError, match="tasks must be a whole number"):
        save_tasks(path, EPISODES, pictures(), KEY, tasks=0)
    with pytest.raises(ValueError, match="ways=9 must not exceed"):
        save_tasks(path, mj.data.episodes(9, 1, 1), pictures(), KEY, tasks=2)
    assert not path.exists()

    def wide(dataset, key):
        batch = mj.Batch(jnp.ones((1, 1), jnp.float64), jnp.ones((1, 1), jnp.float64))
        return mj.Task(batch, batch)

    save_tasks(path, wide, (), KEY, tasks=2)
    with (
        jax.enable_x64(False),
        pytest.raises(ValueError, match=r"holds float64 in support\.x; set jax_enable_x64"),
    ):
        load_tasks(path, ())
