"""Tasks of varying size, and tasks within a group."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import metajax as mj
from metajax.data.tasks.grouped import grouped_episodes
from metajax.data.tasks.varied import varied_episodes

KEY = jax.random.key(0)
COUNTS = np.array([4, 30, 6, 12, 2, 9, 50, 5])
OWNER = np.repeat(np.arange(8), COUNTS)


def rows(counts=COUNTS, **options):
    """Classes of unequal size; an example is 1 + the number of its row, so that 0 is padding."""
    return mj.data.dataset(
        np.arange(1, 1 + sum(counts))[:, None].astype(np.int32),
        np.repeat(range(len(counts)), counts),
        **options,
    )


def many(sample, source, number, key=KEY):
    tasks = jax.jit(mj.data.meta_batch(sample, number))(source, key)
    return [
        jax.tree.map(lambda leaf: leaf[n], jax.tree.map(np.asarray, tasks)) for n in range(number)
    ]  # noqa: B023


def counted(batch):
    """Row numbers and labels of what counts."""
    used = batch.weight > 0
    assert set(batch.weight) <= {0.0, 1.0}
    assert (batch.x[~used] == 0).all() and (batch.y[~used] == 0).all()
    return batch.x[used, 0] - 1, batch.y[used]


def test_varied_tasks_keep_to_the_rules():
    sizes, shapes = set(), set()
    for task in many(varied_episodes((2, 5), support=40, queries=3, shots=12), rows(), 300):
        row, label = counted(task.support)
        asked, asked_label = counted(task.query)
        ways = label.max() + 1
        shapes.add(tuple(np.bincount(label)))
        sizes.add(len(row))
        assert task.support.x.dtype == np.int32 and task.support.y.dtype == np.int32
        assert task.support.weight.dtype == np.float32 and task.support.x.shape == (40, 1)
        assert 2 <= ways <= 5 and (np.bincount(label) > 0).all()
        assert len({*row, *asked}) == len(row) + len(asked), (
            "without replacement, and support and query are disjoint"
        )
        owner = np.array([OWNER[row[label == way][0]] for way in range(ways)])
        assert len(set(owner)) == ways
        np.testing.assert_array_equal(OWNER[row], owner[label])
        np.testing.assert_array_equal(OWNER[asked], owner[asked_label])
        expected = min(3, (COUNTS[owner] // 2).min())
        np.testing.assert_array_equal(np.bincount(asked_label), [expected] * ways)
        assert len(row) <= min(40, np.minimum(12, COUNTS[owner] - expected).sum())
    assert len(shapes) > 150 and max(sizes) > 25 and min(sizes) < 5


def test_ways_end_at_the_number_of_classes_and_groups_stay_by_themselves():
    ways = [
        counted(task.support)[1].max() + 1
        for task in many(varied_episodes((6, 50), 60, 2), rows(), 100)
    ]
    assert set(ways) == {6, 7, 8}
    source, sizes = (
        rows(names=[f"{group}/{number}" for number, group in enumerate("ABBAACAA")]),
        {"A": set(), "B": set()},
    )
    for task in many(varied_episodes((2, 4), 30, 2, group=mj.data.group_of), source, 300):
        row, label = counted(task.support)
        asked, _ = counted(task.query)
        (group,) = {source.names[OWNER[one]][0] for one in (*row, *asked)}
        assert len({*row, *asked}) == len(row) + len(asked)
        assert len(set(OWNER[row])) == label.max() + 1
        sizes[group].add(int(label.max()) + 1)
    assert sizes == {"A": {2, 3, 4}, "B": {2}}, "a group of one class is never drawn"


def simulate(rng, counts, least, most, support, queries, shots, spread):
    """What the paper says, one class after another."""
    ways = rng.integers(least, most + 1)
    chosen = rng.permutation(counts)[:ways]
    asked = min(queries, *(count // 2 for count in chosen))
    beta = 1 - rng.random()
    total = min(support, sum(int(np.ceil(beta * min(shots, count - asked))) for count in chosen))
    frequency = [count * np.exp(rng.uniform(-spread, spread)) for count in chosen]
    return [
        min(int((total - ways) * f / sum(frequency)) + 1, c - asked)
        for f, c in zip(frequency, chosen, strict=True)
    ]


@pytest.mark.parametrize("options", [{}, {"shots": 8, "imbalance": 8.0, "support": 30}], ids=str)
def test_sizes_are_distributed_as_in_a_plain_simulation(options):
    options = {"support": 60, "queries": 3, "shots": 100, "imbalance": 2.0} | options
    rng, number = np.random.default_rng(0), 2000
    spread = np.log(options.pop("imbalance"))
    plain = [simulate(rng, COUNTS, 3, 6, spread=spread, **options) for _ in range(number)]
    tasks = jax.jit(
        mj.data.meta_batch(
            varied_episodes((3, 6), imbalance=float(np.exp(spread)), **options), number
        )
    )(rows(), KEY)
    label, used = np.asarray(tasks.support.y), np.asarray(tasks.support.weight) > 0
    ours = [np.bincount(y[keep]) for y, keep in zip(label, used, strict=True)]
    for figure in (sum, max, lambda sizes: max(sizes) / sum(sizes), len):
        one, other = ([figure(sizes) for sizes in many] for many in (plain, ours))
        assert scipy.stats.ks_2samp(one, other).pvalue > 1e-3


def test_ways_classes_and_rows_are_uniform():
    tasks = jax.jit(mj.data.meta_batch(varied_episodes((2, 5), support=20, queries=2), 4000))(
        rows(), KEY
    )
    ways = np.asarray(jnp.where(tasks.support.weight > 0, tasks.support.y, 0)).max(axis=1) + 1
    assert scipy.stats.chisquare(np.bincount(ways)[2:]).pvalue > 1e-3
    first = np.asarray(tasks.query.x)[:, 0, 0] - 1
    assert scipy.stats.chisquare(np.bincount(OWNER[first], minlength=8)).pvalue > 1e-3
    for part in (tasks.query, tasks.support):
        row = np.asarray(part.x)[:, 0, 0] - 1
        assert (
            scipy.stats.chisquare(
                np.bincount(row[OWNER[row] == 1] - COUNTS[0], minlength=30)
            ).pvalue
            > 1e-3
        )


def test_padding_of_varied_tasks_is_inert():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(sum(COUNTS), 3)) + 3 * rng.normal(size=(8, 3))[OWNER]
    source = mj.data.dataset(x, OWNER)
    embed = lambda params, x, key=None, *, reference=None: jnp.tanh(x @ params.slow)
    loss = mj.losses.cross_entropy(mj.linear_head(embed))
    task_loss = jax.jit(
        jax.value_and_grad(mj.query_loss(mj.prototypes(embed, 5), loss), has_aux=True)
    )
    sample = jax.jit(varied_episodes((2, 5), support=30, queries=3))
    params = mj.Params({}, jnp.asarray(rng.normal(size=(3, 4))))
    for seed in range(2):
        task = sample(source, jax.random.key(seed))
        short = mj.Task(*(mj.take(batch, jnp.flatnonzero(batch.weight > 0)) for batch in task[:2]))
        assert len(short.support.y) < 30
        (padded, metrics), slope = task_loss(params, task, KEY)
        (value, others), other = task_loss(params, short, KEY)
        np.testing.assert_allclose(padded, value, rtol=1e-9)
        np.testing.assert_allclose(slope.slow, other.slow, rtol=1e-9, atol=1e-12)
        assert metrics["accuracy"] == others["accuracy"]


def test_what_is_known_of_classes_and_several_modalities():
    value = {"image": np.full((30, 2, 2, 1), 255, np.uint8), "audio": np.ones((30, 3))}
    x = mj.data.as_modalities(value, {"audio": np.arange(30) % 2 > 0})
    info = {"height": np.arange(1.0, 6.0), "icon": np.full((5, 2), 51, np.uint8)}
    source = mj.data.dataset(x, np.arange(30) // 6, info=info)
    for sample in (varied_episodes((2, 4), support=12, queries=2), grouped_episodes(3, 1, 2)):
        task = jax.jit(sample)(source, jax.random.key(0))
        ways = int(task.support.y.max()) + 1
        assert ways == 3, "or choose another seed"
        used = (
            np.ones(3, bool) if task.support.weight is None else np.asarray(task.support.weight) > 0
        )
        image, audio = (np.asarray(task.support.x.value[name]) for name in ("image", "audio"))
        assert (image.reshape(len(image), -1) == 1).all(
            axis=1
        ).tolist() == used.tolist() or used.all()
        there = np.asarray(task.support.x.present["audio"])
        np.testing.assert_array_equal(audio[:, 0], there)
        np.testing.assert_allclose(task.support.info["icon"][:ways], 0.2)
        assert (task.support.info["height"][:ways] > 0).all() and (
            task.support.info["height"][ways:] == 0
        ).all()


def test_the_defaults_are_the_paper_s():
    task = jax.eval_shape(varied_episodes(), rows([4] * 50), KEY)
    assert task.support.y.shape == (500,) and task.query.y.shape == (500,)


NAMES = ["A/0", "B/0", "A/1", "B/1", "C/0", "A/2", "B/2", "A/3"]  # 4 of A, 3 of B, 1 of C


def test_grouped_tasks_stay_within_a_group():
    source, groups, classes = rows([5] * 8, names=NAMES), [], []
    for task in many(grouped_episodes(3, 2, 3), source, 1500):
        np.testing.assert_array_equal(task.support.y, np.repeat(np.arange(3), 2))
        np.testing.assert_array_equal(task.query.y, np.repeat(np.arange(3), 3))
        row, asked = task.support.x[:, 0] - 1, task.query.x[:, 0] - 1
        assert len({*row, *asked}) == 15
        owner = row[::2] // 5
        np.testing.assert_array_equal(row // 5, np.repeat(owner, 2))
        np.testing.assert_array_equal(asked // 5, np.repeat(owner, 3))
        assert len(set(owner)) == 3 and len({NAMES[number][0] for number in owner}) == 1
        groups.append(NAMES[owner[0]][0])
        classes.append(owner[1])
    number = np.array([groups.count(name) for name in "ABC"])
    assert number[2] == 0 and scipy.stats.chisquare(number[:2]).pvalue > 1e-3, (
        "each group as likely as the other"
    )
    for name, size in {"A": 4, "B": 3}.items():
        seen = np.bincount([n for n in classes if NAMES[n].startswith(name)])
        assert (seen > 0).sum() == size and scipy.stats.chisquare(seen[seen > 0]).pvalue > 1e-3


def test_groups_are_what_the_function_says():
    source = rows([3] * 8, names=NAMES)
    for task in many(grouped_episodes(3, 1, 1, group=lambda name: name[-1]), source, 50):
        assert {NAMES[row // 3][-1] for row in task.support.x[:, 0] - 1} == {"0"}, (
            "the only one with three classes"
        )
    assert jax.eval_shape(grouped_episodes(8, 1, 1), rows([3] * 8), KEY).query.y.shape == (8,), (
        "no '/': one group"
    )


def test_rotations_are_classes_of_the_same_group():
    pictures = np.random.default_rng(0).integers(0, 255, (18, 4, 4, 1)).astype(np.uint8)
    source = mj.data.dataset(pictures, np.arange(18) // 6, names=["A/0", "A/1", "B/0"])
    for task in many(grouped_episodes(4, 1, 2, rotations=True), source, 30):
        found = []
        for way in range(4):
            mine = [task.support.x[way], *task.query.x[2 * way : 2 * way + 2]]
            mine = {np.rint(255 * one).astype(np.uint8).tobytes() for one in mine}
            for label in range(3):
                for quarter in range(4):
                    turned = np.rot90(pictures[6 * label : 6 * label + 6], quarter, axes=(1, 2))
                    if mine <= {np.ascontiguousarray(one).tobytes() for one in turned}:
                        found.append((label, quarter))
        assert len(set(found)) == 4 and len({source.names[label][0] for label, _ in found}) == 1


def test_errors_say_what_to_do():
    source = rows(names=NAMES)
    for options, message in (
        ({"ways": (0, 5)}, r"ways\[0\] must be a whole number, 1 or more, got 0"),
        ({"queries": 0}, "queries must be a whole number"),
        ({"shots": 1.5}, "shots must be a whole number, 1 or more, got 1.5"),
        ({"support": 0}, "support must be a whole number"),
        ({"ways": (5, 4)}, r"ways\[1\] must be a whole number, 5 or more, got 4"),
        ({"ways": (2, 6), "support": 5}, r"ways=\(2, 6\) .* support=5 one example or more"),
        ({"imbalance": 0.5}, "imbalance=0.5 must be a factor"),
    ):
        with pytest.raises(ValueError, match=message):
            varied_episodes(**options)
    with pytest.raises(
        ValueError, match=r"No group has ways=9 classes; the largest have \{'all': 8\}"
    ):
        varied_episodes((9, 50))(source, KEY)
    with pytest.raises(ValueError, match=r"No group has ways=5 classes"):
        varied_episodes(group=mj.data.group_of)(source, KEY)
    with pytest.raises(
        ValueError, match=r"support=1, queries=1 must not .* 1 of 2, \{'1': 1\}; ask"
    ):
        jax.jit(varied_episodes((1, 2), 9, 1))(rows([3, 1]), KEY)
    with pytest.raises(ValueError, match="ways must be a whole number"):
        grouped_episodes(0, 1, 1)
    with pytest.raises(
        ValueError, match=r"shots=1, queries=2 must not .* Too small are 1 of 8, \{'C/0': 2\}"
    ):
        grouped_episodes(2, 1, 2)(source, KEY)
    with pytest.raises(
        ValueError,
        match=r"No group has ways=5 classes; the largest have \{'A': 4, 'B': 3, 'C': 1\}",
    ):
        jax.jit(grouped_episodes(5, 1, 1))(source, KEY)
    with pytest.raises(ValueError, match="Rotations need square images"):
        grouped_episodes(5, 1, 1, rotations=True)(source, KEY)
