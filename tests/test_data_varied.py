"""Tasks that vary in their ways and shots."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from drawn_tasks import KEY, draw, draw_list, numbered

import metajax as mj
from metajax.data.tasks.varied import varied_episodes

COUNTS = np.array([4, 30, 6, 12, 2, 9, 50, 5])
OWNER = np.repeat(np.arange(8), COUNTS)


def rows(**options):
    return numbered(COUNTS, **options)


def counted(batch):
    """Row numbers and labels of the valid rows."""
    used = batch.weight > 0
    assert set(batch.weight) <= {0.0, 1.0}
    assert (batch.x[~used] == 0).all() and (batch.y[~used] == 0).all()
    return batch.x[used, 0] - 1, batch.y[used]


def test_varied_tasks_keep_to_the_rules():
    sizes, shapes = set(), set()
    sample = varied_episodes((2, 5), support=40, queries=3, shots=12)
    for task in draw_list(sample, 300, rows()):
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
        for task in draw_list(varied_episodes((6, 50), 60, 2), 100, rows())
    ]
    assert set(ways) == {6, 7, 8}
    source = rows(names=[f"{group}/{number}" for number, group in enumerate("ABBAACAA")])
    sizes = {"A": set(), "B": set()}
    sample = varied_episodes((2, 4), 30, 2, group=mj.data.group_of)
    for task in draw_list(sample, 300, source):
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
    sample = varied_episodes((3, 6), **options)
    rng = np.random.default_rng(0)
    spread = np.log(options.pop("imbalance"))
    plain = [simulate(rng, COUNTS, 3, 6, spread=spread, **options) for _ in range(2000)]
    support = draw(sample, 2000, rows()).support
    ours = [np.bincount(y[w > 0]) for y, w in zip(support.y, support.weight, strict=True)]
    for figure in (sum, max, lambda sizes: max(sizes) / sum(sizes), len):
        one, other = ([figure(sizes) for sizes in many] for many in (plain, ours))
        assert scipy.stats.ks_2samp(one, other).pvalue > 1e-3


def is_uniform(counts):
    return scipy.stats.chisquare(counts).pvalue > 1e-3


def test_ways_classes_and_rows_are_uniform():
    tasks = draw(varied_episodes((2, 5), support=20, queries=2), 4000, rows())
    ways = np.where(tasks.support.weight > 0, tasks.support.y, 0).max(axis=1) + 1
    assert is_uniform(np.bincount(ways)[2:])
    first = tasks.query.x[:, 0, 0] - 1
    assert is_uniform(np.bincount(OWNER[first], minlength=8))
    for part in (tasks.query, tasks.support):
        row = part.x[:, 0, 0] - 1
        assert is_uniform(np.bincount(row[OWNER[row] == 1] - COUNTS[0], minlength=30))


def test_padding_of_varied_tasks_is_inert():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(sum(COUNTS), 3)) + 3 * rng.normal(size=(8, 3))[OWNER]
    source = mj.data.dataset(x, OWNER)
    start = mj.Params({}, jnp.asarray(rng.normal(size=(3, 4))))
    encode, params = mj.nets.from_function(lambda params, x: jnp.tanh(x @ params.slow), start)
    loss = mj.losses.cross_entropy(mj.linear_head(encode))
    query_loss = mj.query_loss(mj.prototypes(encode, 5), loss)
    task_loss = jax.jit(jax.value_and_grad(query_loss, has_aux=True))
    sample = jax.jit(varied_episodes((2, 5), support=30, queries=3))
    for seed in range(2):
        task = sample(source, jax.random.key(seed))
        short = mj.Task(*(mj.take(batch, jnp.flatnonzero(batch.weight > 0)) for batch in task[:2]))
        assert len(short.support.y) < 30
        (padded, metrics), slope = task_loss(params, task, KEY)
        (value, others), other = task_loss(params, short, KEY)
        np.testing.assert_allclose(padded, value, rtol=1e-9)
        np.testing.assert_allclose(slope.slow, other.slow, rtol=1e-9, atol=1e-12)
        assert metrics["accuracy"] == others["accuracy"]


def test_side_information_and_several_modalities_are_padded():
    value = {"image": np.full((30, 2, 2, 1), 255, np.uint8), "audio": np.ones((30, 3))}
    x = mj.data.as_modalities(value, {"audio": np.arange(30) % 2 > 0})
    info = {"height": np.arange(1.0, 6.0), "icon": np.full((5, 2), 51, np.uint8)}
    source = mj.data.dataset(x, np.arange(30) // 6, info=info, scale={"image": 255})
    support = jax.jit(varied_episodes((2, 4), support=12, queries=2))(source, KEY).support
    support = jax.tree.map(np.asarray, support)
    used = support.weight > 0
    assert support.y.max() == 2 and not used.all(), "or choose another seed"
    image = support.x.value["image"].reshape(12, -1)
    np.testing.assert_array_equal(image, np.broadcast_to(used[:, None], (12, 4)))
    np.testing.assert_array_equal(support.x.value["audio"][:, 0], support.x.present["audio"])
    np.testing.assert_array_equal(support.info["icon"], [[51, 51]] * 3 + [[0, 0]])
    np.testing.assert_array_equal(support.info["height"] > 0, [True, True, True, False])


def test_the_defaults_are_those_of_the_paper():
    task = jax.eval_shape(varied_episodes(), numbered([4] * 50), KEY)
    assert task.support.y.shape == (500,) and task.query.y.shape == (500,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ways": (0, 5)}, r"ways\[0\] must be a whole number, 1 or more, got 0"),
        ({"queries": 0}, "queries must be a whole number"),
        ({"shots": 1.5}, "shots must be a whole number,.* got 1.5"),
        ({"support": 0}, "support must be a whole number"),
        ({"ways": (5, 4)}, r"ways\[1\] must be a whole number, 5 or more, got 4"),
        ({"ways": (2, 6), "support": 5}, r"ways=\(2, 6\) .* support=5 one example or more"),
        ({"imbalance": 0.5}, "imbalance=0.5 must be a factor"),
        ({"imbalance": float("inf")}, "imbalance must be a finite real number, got inf"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        varied_episodes(**options)


def test_data_that_do_not_fit_are_refused():
    source = rows(names=[f"{'ABABCABA'[number]}/{number}" for number in range(8)])
    with pytest.raises(
        ValueError, match=r"No group has ways=9 classes; the largest have \{'all': 8\}"
    ):
        varied_episodes((9, 50))(source, KEY)
    with pytest.raises(ValueError, match=r"No group has ways=5 classes"):
        varied_episodes(group=mj.data.group_of)(source, KEY)
    with pytest.raises(
        ValueError, match=r"support=1, queries=1 together must not .* 1 of 2, \{'1': 1\}; ask"
    ):
        jax.jit(varied_episodes((1, 2), 9, 1))(numbered([3, 1]), KEY)
