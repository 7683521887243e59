"""Tasks that are saved and come back."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax as mj
from metajax.data.tasks.functions import gaussian_processes, image_completion
from metajax.data.tasks.grouped import grouped_episodes
from metajax.data.tasks.partial_labels import semi_supervised
from metajax.data.tasks.replay import fingerprint, load_tasks, save_tasks
from metajax.data.tasks.sequences import continual
from metajax.data.tasks.varied import varied_episodes

KEY = jax.random.key(7)


def pictures(seed=0, **options):
    """Eight classes of six images of two groups, with what is known of them."""
    image = np.random.default_rng(seed).integers(0, 255, (48, 4, 4, 1)).astype(np.uint8)
    options = {
        "names": [f"{n % 2}/{n}" for n in range(8)],
        "info": {"icon": image[:8, 0], "height": np.ones(8)},
    } | options
    return mj.data.dataset(image, np.arange(48) // 6, **options)


def several():
    rng = np.random.default_rng(0)
    value = {
        "wave": rng.integers(-9, 9, (20, 5)).astype(np.int16),
        "vector": rng.normal(size=(20, 3)),
    }
    return mj.data.dataset(
        mj.data.as_modalities(value, {"wave": np.arange(20) % 3 > 0}), np.arange(20) // 5
    )


TASKS = {
    "episodes": (mj.data.episodes(3, 1, 2), pictures),
    "as stored": (mj.data.episodes(9, 1, 2, rotations=True, scale=False), pictures),
    "varied modalities": (varied_episodes((2, 4), 9, 2), several),
    "grouped": (grouped_episodes(4, 1, 2, rotations=True), pictures),
    "semi-supervised": (
        semi_supervised(2, 1, 1, unlabelled=2, distractors=1, rotations=True),
        pictures,
    ),
    "continual": (continual(2, 3, 1, 1, rotations=True), pictures),
    "modes": (
        mj.data.task_modes({"all": mj.data.episodes(3, 1, 2), "group": grouped_episodes(3, 1, 2)}),
        pictures,
    ),
    "made": (gaussian_processes(3, 4), tuple),
}


@pytest.mark.parametrize("name", TASKS)
def test_tasks_come_back_bit_for_bit(name, tmp_path):
    sample, make = TASKS[name]
    source, path = make(), tmp_path / "tasks.npz"
    sample = sample if name == "episodes" else jax.jit(sample)
    save_tasks(path, sample, source, KEY, tasks=20)
    again = load_tasks(path, make())
    drawn = jax.jit(mj.data.meta_batch(sample, 20))(source, KEY)
    if name == "made":
        drawn = mj.data.meta_batch(sample, 20)(
            source, KEY
        )  # as they were made, when they were made
    assert jax.tree.structure(again) == jax.tree.structure(drawn)
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(drawn), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_the_file_says_where_it_is_from_and_holds_no_data(tmp_path):
    source = mj.data.dataset(
        np.random.default_rng(0).normal(size=(4000, 50)), np.arange(4000) // 20
    )
    save_tasks(tmp_path / "tasks", mj.data.episodes(5, 1, 5), source, KEY, tasks=100)
    assert [path.name for path in tmp_path.iterdir()] == ["tasks"]
    assert (tmp_path / "tasks").stat().st_size < 20_000
    about = json.loads(str(np.load(tmp_path / "tasks")["about"]))
    assert about["versions"]["jax"] == jax.__version__ and "metajax" in about["versions"]
    assert (
        about["data"] == fingerprint(source)
        and about["classes"] == 200
        and about["examples"] == 4000
    )
    assert about["key"] == ["threefry2x32", [0, 7]]


def test_saved_tasks_are_never_overwritten(tmp_path):
    path = tmp_path / "tasks.npz"
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="is not overwritten; choose another name"):
        save_tasks(path, mj.data.episodes(2, 1, 1), pictures(), KEY)
    assert path.read_bytes() == b"mine"


def test_another_data_set_is_refused(tmp_path):
    path = tmp_path / "tasks.npz"
    save_tasks(path, mj.data.episodes(2, 1, 1), pictures(), KEY, tasks=2)
    names = [f"another/{n}" for n in range(8)]
    fewer = mj.data.select(pictures(), [True] * 7 + [False])
    for other in (pictures(seed=1), pictures(names=names), pictures(info=()), fewer):
        with pytest.raises(
            ValueError,
            match=r"needs the data set of 8 classes and 48 examples with fingerprint \w{12}, got the data",
        ):
            load_tasks(path, other)
    with pytest.raises(ValueError, match=r"needs the data set of 8 .*, got no data set, \(\)"):
        load_tasks(path, ())
    save_tasks(tmp_path / "made", mj.data.sinusoids(1, 1), (), KEY, tasks=2)
    with pytest.raises(ValueError, match=r"needs no data set, \(\), got the data set of 8 classes"):
        load_tasks(tmp_path / "made", pictures())


def test_tasks_of_several_data_sets_are_refused(tmp_path):
    modes = mj.data.task_modes(
        {
            name: lambda both, key, name=name: mj.data.episodes(2, 1, 1)(both[name], key)
            for name in "ab"
        }
    )
    with pytest.raises(
        ValueError, match="several data sets cannot be recorded, got dict; save those of each"
    ):
        save_tasks(tmp_path / "tasks", modes, {"a": pictures(), "b": pictures(seed=1)}, KEY)


def test_fingerprints_tell_data_sets_apart():
    plain = {"names": [str(n) for n in range(8)], "info": ()}
    image = np.zeros((8, 2), np.uint8)
    variants = [
        mj.data.dataset(image, np.arange(8)),
        mj.data.dataset(image.astype(np.int16), np.arange(8)),
        mj.data.dataset(image.reshape(8, 1, 2), np.arange(8)),
        mj.data.dataset(image, np.arange(8) // 2),
        mj.data.dataset(image, np.arange(8), info=image),
        pictures(**plain),
    ]
    assert len({fingerprint(one) for one in variants}) == len(variants)
    assert fingerprint(pictures(**plain)) == fingerprint(pictures(**plain))


def test_damage_is_noticed(tmp_path):
    """Whichever byte changes: an error that says so, or the same tasks."""
    path, source = tmp_path / "tasks.npz", pictures()
    save_tasks(path, jax.jit(varied_episodes((2, 3), 5, 1)), source, KEY, tasks=2)
    whole, right = path.read_bytes(), load_tasks(path, source)
    refused = 0
    rng = np.random.default_rng(0)
    for place in rng.choice(len(whole), 150, replace=False):
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ (1 << rng.integers(8))]) + whole[place + 1 :]
        )
        try:
            jax.tree.map(np.testing.assert_array_equal, load_tasks(path, source), right)
        except ValueError as error:
            assert "is damaged, or no file of save_tasks" in str(error)  # noqa: PT017
            refused += 1
    assert refused > 75
    for content in (b"", b"no", whole[:200], whole[:-30]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged, or no file of save_tasks: it is no"):
            load_tasks(path, source)
    with path.open("wb") as file:
        np.savez(file, x=np.zeros(3))
    with pytest.raises(ValueError, match=r"is damaged, or no file of save_tasks: .*about"):
        load_tasks(path, source)
    with path.open("wb") as file:
        np.savez(file, about=np.array(json.dumps({"format": 9, "arrays": []})))
    with pytest.raises(ValueError, match="it has format 9"):
        load_tasks(path, source)
    with pytest.raises(FileNotFoundError):
        load_tasks(tmp_path / "other", source)


def changed(change):
    """Episodes whose x is changed."""

    def sample(dataset, key):
        task = mj.data.episodes(2, 1, 1)(dataset, key)
        return task._replace(support=task.support._replace(x=change(task.support.x)))

    return sample


def masked(dataset, key):
    task = mj.data.episodes(2, 1, 1)(dataset, key)
    x = task.query.x
    present = {name: jnp.zeros_like(here) for name, here in x.present.items()}
    return task._replace(query=task.query._replace(x=x._replace(present=present)))


REFUSED = {
    "flipped": (changed(lambda x: x[:, :, ::-1]), pictures),
    "noisy": (changed(lambda x: x + 0.1), pictures),
    "mixed": (changed(lambda x: (x + x[::-1]) / 2), pictures),
    "inverted": (changed(lambda x: 1 - x if x.dtype == jnp.float32 else x), pictures),
    "cropped": (changed(lambda x: x[:, :2, :2]), pictures),
    "moved": (changed(lambda x: jnp.roll(x, 1, axis=1)), pictures),
    "masked": (masked, several),
    "pixels": (image_completion(3, 3), pictures),
    "all pixels": (image_completion(3), pictures),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_picked_rows_is_refused(name, tmp_path):
    sample, make = REFUSED[name]
    with pytest.raises(
        ValueError, match="Only tasks whose x is rows of the data set, whole or turned by quarters"
    ):
        save_tasks(tmp_path / "tasks", jax.jit(sample), make(), KEY, tasks=3)
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
        save_tasks(path, mj.data.episodes(2, 1, 1), pictures(), KEY, tasks=0)
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
