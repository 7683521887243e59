"""Several modalities in data, nets and learners: what is absent says nothing, and what counts is learned."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from problems import assert_close

import metajax as mj
from metajax.modalities import (
    late_head,
    leave_one_out_loss,
    modal_prototypes,
    ruler,
    ruler_table,
    support_weights,
)
from metajax.modalities.measurement import count_shots, encode_tasks, grid_accuracy, simplex
from metajax.modalities.weighting import STATISTICS, leave_one_out, support_statistics
from metajax.nets import fusion
from metajax.nets.sequence import TemporalConv

WAYS, NAMES, KEY = 3, ("audio", "image"), jax.random.key(0)


def features(params, x, key=None, *, reference=None):
    """Features that are there already."""
    return x.value


def make_tasks(number, seed, *, shots=3, queries=4, missing=0.0, width=4):
    """In each task each modality has a noise of its own, which the support set shows."""
    rng = np.random.default_rng(seed)
    noise = {name: rng.uniform(0.2, 2.0, (number, 1, 1, 1)) for name in NAMES}
    centre = {name: rng.normal(size=(number, WAYS, 1, width)) for name in NAMES}

    def batch(rows):
        shape = (number, WAYS, rows, width)
        value = {
            n: jnp.asarray(
                (centre[n] + noise[n] * rng.normal(size=shape)).reshape(number, -1, width)
            )
            for n in NAMES
        }
        present = {
            n: jnp.asarray(rng.uniform(size=(number, WAYS * rows)) >= missing) for n in NAMES
        }
        y = jnp.broadcast_to(
            jnp.repeat(jnp.arange(WAYS, dtype=jnp.int32), rows)[None], (number, WAYS * rows)
        )
        return mj.Batch(mj.Modalities(value, present), y)

    return mj.Task(batch(shots), batch(queries))


def first(tree):
    return jax.tree.map(lambda leaf: leaf[0], tree)


def with_x(function, tree):
    """The same task or batch with another x."""
    if isinstance(tree, mj.Task):
        return mj.Task(with_x(function, tree.support), with_x(function, tree.query))
    return tree._replace(x=function(tree.x))


def learner(name):
    """(task loss, params): every learner of this file."""
    loss = mj.losses.cross_entropy(late_head(features))
    write, weights = (
        modal_prototypes(features, WAYS),
        {"weights": dict.fromkeys(NAMES, jnp.zeros(()))},
    )
    descend = mj.inner_loop(leave_one_out_loss(features, WAYS), mj.learned_rates(0.5), steps=2)
    adaptation, fast = {
        "prototypes": (write, {}),
        "computed weights": (mj.chain(support_weights(features, WAYS), write), weights),
        "descended weights": (mj.chain(descend, write), weights),
    }[name]
    params = adaptation.init(mj.Params(fast, ()), KEY)
    if name == "computed weights":
        params.rule[0]["out"] = params.rule[0]["out"] + 0.3
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
    return mj.query_loss(adaptation, loss), params


@functools.cache
def compiled(name):
    task_loss, params = learner(name)
    run = jax.jit(
        jax.value_and_grad(
            lambda params, task: task_loss(params, task, KEY), (0, 1), has_aux=True, allow_int=True
        )
    )
    return run, params


every = pytest.mark.parametrize("name", ["prototypes", "computed weights", "descended weights"])


@every
def test_what_stands_in_an_absent_modality_changes_nothing(name):
    run, params = compiled(name)
    task = first(make_tasks(1, 0, missing=0.4))

    def spoil(batch):
        value = {
            n: jnp.where(batch.x.present[n][:, None], f, jnp.nan) for n, f in batch.x.value.items()
        }
        return batch._replace(x=batch.x._replace(value=value))

    spoiled = mj.Task(spoil(task.support), spoil(task.query))
    values, (to_params, to_task) = run(params, task)
    values_again, (to_params_again, to_task_again) = run(params, spoiled)
    assert_close((values, to_params), (values_again, to_params_again), 0)
    for ours, again in zip(
        (to_task.support, to_task.query), (to_task_again.support, to_task_again.query), strict=True
    ):
        for n in NAMES:
            np.testing.assert_array_equal(ours.x.value[n], again.x.value[n])
    for batch, gradient in ((task.support, to_task.support), (task.query, to_task.query)):
        for n in NAMES:
            assert not np.asarray(gradient.x.value[n])[~np.asarray(batch.x.present[n])].any()
            assert np.asarray(gradient.x.value[n]).any()


@every
def test_every_parameter_receives_gradient_and_names_tell_modalities_apart(name):
    run, params = compiled(name)
    tasks = make_tasks(3, 1)
    rows = [jax.tree.map(lambda leaf: leaf[i], tasks) for i in range(3)]  # noqa: B023
    gradients = [run(params, task)[1][0] for task in rows]
    summed = jax.tree.map(lambda *leaves: sum(jnp.abs(leaf) for leaf in leaves), *gradients)
    summed = (
        summed._replace(fast={}) if name == "computed weights" else summed
    )  # a writer replaces its leaves
    assert all((leaf > 0).all() for leaf in jax.tree.leaves(summed))
    swap = lambda tree: {n: tree[n] for n in reversed(NAMES)}
    again = with_x(lambda x: mj.Modalities(*map(swap, x)), rows[0])
    assert_close(run(params, again)[0], run(params, rows[0])[0], 0)


@pytest.mark.parametrize("name", ["computed weights", "descended weights"])
def test_a_class_without_support_is_inert(name):
    """More ways than there are classes change neither the weights nor the answers."""
    task = first(make_tasks(1, 8, missing=0.3))
    written = []
    for ways in (WAYS, WAYS + 2):
        start = {"weights": dict.fromkeys(NAMES, jnp.zeros(()))}
        if name == "computed weights":
            adaptation = support_weights(features, ways)
            params = adaptation.init(mj.Params(start, ()), KEY)
            params.rule["out"] = params.rule["out"] + 0.3
        else:
            adaptation = mj.inner_loop(leave_one_out_loss(features, ways), optax.sgd(0.5), steps=2)
            params = mj.Params(start, ())
        written.append(adaptation.adapt(params, task.support, KEY).fast["weights"])
    assert_close(*written, 1e-6)


def test_all_absent_is_the_prior_and_one_modality_alone_is_prototypes():
    task = first(make_tasks(1, 2))
    nowhere = {n: here & False for n, here in task.query.x.present.items()}
    write, apply = modal_prototypes(features, WAYS + 1), late_head(features)
    adapted = write.adapt(mj.Params({}, ()), task.support, KEY)
    logits = apply(adapted, task.query.x._replace(present=nowhere))
    np.testing.assert_array_equal(logits, np.tile([0, 0, 0, -1e9], (len(logits), 1)))
    alone = apply(adapted, task.query.x._replace(present={**nowhere, "image": ~nowhere["image"]}))
    image = lambda params, x, key=None, *, reference=None: x.value["image"]
    plain = mj.prototypes(image, WAYS + 1).adapt(mj.Params({}, ()), task.support, KEY)
    expected = mj.linear_head(image)(plain, task.query.x)
    assert_close(alone[:, :WAYS], expected[:, :WAYS], 1e-12)


def test_a_class_that_lacks_a_modality_is_judged_by_the_others():
    """Without audio in class 0, audio says of it what it says of the others on average."""
    task = first(make_tasks(1, 3))
    here = task.support.x.present["audio"] & (task.support.y != 0)
    support = task.support._replace(
        x=task.support.x._replace(present={**task.support.x.present, "audio": here})
    )
    head = modal_prototypes(features, WAYS).adapt(mj.Params({}, ()), support, KEY).fast["head"]
    for leaf in (head["kernel"]["audio"], head["bias"]["audio"][None]):
        np.testing.assert_allclose(leaf[:, 0], leaf[:, 1:].mean(axis=1), rtol=1e-12)


def test_statistics_of_the_support_set():
    """Against loops: leave-one-out answers, and what is known of well and badly separated classes."""
    x = np.random.default_rng(0).normal(size=(6, 2))
    y, ways = np.array([0, 0, 0, 1, 1, 2]), 3
    classes = jnp.asarray(np.eye(ways)[y])
    answers = leave_one_out(jnp.asarray(x), classes)
    for i in range(6):
        score = np.full(ways, np.nan)
        for k in range(ways):
            rows = [j for j in range(6) if y[j] == k and j != i]
            if rows:
                centre = x[rows].mean(axis=0)
                score[k] = 2 * x[i] @ centre - centre @ centre
        np.testing.assert_allclose(
            answers[i], np.where(np.isnan(score), np.nanmean(score), score), rtol=1e-12
        )
    here = jnp.ones(6, bool)
    far = dict(
        zip(
            STATISTICS,
            support_statistics(jnp.asarray(10 * np.eye(3)[y] + 0.1), here, classes),
            strict=True,
        )
    )
    near = dict(
        zip(
            STATISTICS,
            support_statistics(jnp.asarray(0 * np.eye(3)[y] + 0.1), here, classes),
            strict=True,
        )
    )
    assert far["leave-one-out accuracy"] == pytest.approx(5 / 6), (
        "the class of one example has none to be judged by"
    )
    assert far["separation"] == pytest.approx(np.log1p(200)) and near["separation"] == 0
    assert far["entropy"] < 0.2 and near["entropy"] == pytest.approx(1)
    part = support_statistics(jnp.asarray(x), here & (jnp.asarray(y) != 2), classes)
    assert part[STATISTICS.index("known")] == pytest.approx(2 / 3)


@pytest.fixture(scope="module")
def measured():
    validation, test = make_tasks(200, 4, width=8), make_tasks(200, 5, width=8)
    measured = ruler(
        features, mj.Params({}, ()), validation, test, KEY, ways=WAYS, shots=[2], grid=4, steps=150
    )
    return measured[2], test


def test_the_ruler_finds_what_there_is_to_learn(measured):
    ours, test = measured
    assert set(ours.accuracy) == {*NAMES, "equal", "static", "learned", "oracle"}
    assert ours.best_single in NAMES and sum(ours.static.values()) == pytest.approx(1)
    against = ours.against("learned", "static")
    assert against.mean > against.interval, "the noise of a task shows in its support set"
    assert (ours.accuracy["oracle"].per_task >= ours.accuracy["static"].per_task).all()
    np.testing.assert_allclose(sum(ours.learned.values()), 1, rtol=1e-5)
    assert 0.3 < ours.gap_closed() < 1
    assert ours.shots_equivalent() >= 2 and list(ours.curve) == [1, 2, 3]
    assert ours.curve[2].mean == ours.accuracy[ours.best_single].mean
    two = jnp.arange(WAYS * 3) % 3 < 2
    image = lambda params, x, key=None, *, reference=None: x.value["image"]
    support = test.support._replace(weight=jnp.broadcast_to(two[None] * 1.0, test.support.y.shape))
    plain = mj.query_loss(
        mj.prototypes(image, WAYS), mj.losses.cross_entropy(mj.linear_head(image))
    )
    expected = mj.evaluate(plain, mj.Params({}, {}), test._replace(support=support), KEY)[
        "accuracy"
    ].per_task
    np.testing.assert_allclose(ours.accuracy["image"].per_task, expected, rtol=1e-6)


def test_the_table_of_the_ruler(measured):
    table = ruler_table(measured[0]).splitlines()
    assert [line.split()[0] for line in table[1:]] == list(measured[0].accuracy)


def test_errors_of_the_ruler():
    tasks = make_tasks(2, 0)
    run = lambda test, **options: ruler(
        features, mj.Params({}, ()), test, test, KEY, ways=WAYS, **options
    )
    with pytest.raises(ValueError, match=r"shots=\[1, 4\] must be 1 to the 3"):
        run(tasks, shots=[1, 4])
    with pytest.raises(ValueError, match="grid=0"):
        run(tasks, grid=0)
    plain = with_x(lambda x: x.value["image"], tasks)
    with pytest.raises(ValueError, match="Modalities of two or more"):
        run(plain)
    with pytest.raises(
        ValueError, match="must be 1 to the 0 and 0 shots"
    ):  # a class that no task has
        ruler(features, mj.Params({}, ()), tasks, tasks, KEY, ways=WAYS + 1, shots=[1])
    renamed = with_x(
        lambda x: mj.Modalities(*({"audio": tree["audio"], "equal": tree["image"]} for tree in x)),
        tasks,
    )
    with pytest.raises(ValueError, match="none called"):
        run(renamed)
    with pytest.raises(ValueError, match="the same modalities"):
        ruler(features, mj.Params({}, ()), tasks, renamed, KEY, ways=WAYS)


def test_the_ruler_counts_no_shot_and_no_query_that_it_should_not():
    """Rows that are not among the first shots give no statistic, and padded rows are neither shots nor queries."""
    centred = lambda params, x, key=None, *, reference=None: {
        name: f
        - (f * (reference[:, None] if reference is not None else jnp.ones((len(f), 1)))).sum(
            axis=0
        )[None]
        for name, f in x.value.items()
    }
    task = make_tasks(2, 7)
    weight = jnp.tile(jnp.array([0.0, 1.0, 1.0]), WAYS)[None].repeat(2, axis=0)
    padded = task._replace(support=task.support._replace(weight=weight))
    assert count_shots(padded, WAYS) == 2
    made = encode_tasks(centred, mj.Params({}, ()), padded, 1, WAYS, 1)
    np.testing.assert_array_equal(made.support.weight[0], np.tile([0.0, 1.0, 0.0], WAYS))
    few = with_x(
        lambda x: jax.tree.map(lambda leaf: leaf[:, 1::3], x),
        task.support._replace(y=task.support.y[:, 1::3]),
    )
    expected = jax.vmap(lambda x: centred(None, x, reference=jnp.ones(WAYS)))(few.x)["image"]
    np.testing.assert_allclose(made.support.x.value["image"][:, 1::3], expected, rtol=1e-12)
    points = jnp.asarray(simplex(2, 2))
    half = (jnp.arange(WAYS * 4) % 2).astype(jnp.float32)
    some = task._replace(query=task.query._replace(weight=half[None].repeat(2, axis=0)))
    only = task._replace(
        query=with_x(lambda x: jax.tree.map(lambda leaf: leaf[:, 1::2], x), task.query)
    )
    only = only._replace(query=only.query._replace(y=task.query.y[:, 1::2]))
    assert_close(
        *(grid_accuracy(sorted(NAMES), WAYS, points, tasks) for tasks in (some, only)), 1e-12
    )


def test_weights_of_the_grid_sum_to_one_and_have_the_equal_ones():
    for names in (2, 3, 4):
        points = simplex(names, 10)
        np.testing.assert_allclose(points.sum(axis=1), 1)
        assert (
            (points >= 0).all()
            and (points[-1] == 1 / names).all()
            and (points == 0).any(axis=0).all()
        )


def test_errors_say_what_to_do():
    task = first(make_tasks(1, 0))
    with pytest.raises(ValueError, match="ways must be"):
        modal_prototypes(features, 0)
    plain = task.support._replace(x=jnp.ones((9, 2)))
    with pytest.raises(ValueError, match="x is a Modalities"):
        modal_prototypes(features, WAYS).adapt(mj.Params({}, ()), plain, KEY)
    weigh = support_weights(features, WAYS)
    with pytest.raises(ValueError, match="must name the modalities"):
        weigh.init(mj.Params({}, ()), KEY)
    with pytest.raises(ValueError, match="has no rule yet"):
        weigh.adapt(mj.Params({"weights": {}}, ()), task.support, KEY)
    with pytest.raises(
        ValueError, match=r"rule of support_weights.*lack the modalities \['image'\]"
    ):
        weigh.adapt(weigh.init(mj.Params({"weights": {"audio": 0.0}}, ()), KEY), task.support, KEY)
    with pytest.raises(ValueError, match="x is a Modalities"):
        weigh.adapt(weigh.init(mj.Params({"weights": {"audio": 0.0}}, ()), KEY), plain, KEY)
    adapted = modal_prototypes(features, WAYS).adapt(
        mj.Params({"weights": {"audio": 0.0}}, ()), task.support, KEY
    )
    with pytest.raises(
        ValueError, match=r"params.fast\['weights'\].*lack the modalities \['image'\]"
    ):
        late_head(features)(adapted, task.query.x)
    lacking = with_x(lambda x: mj.data.as_modalities({"image": x.value["image"]}), task.query)
    with pytest.raises(ValueError, match=r"\['audio', 'image'\], the query set \['image'\]"):
        learner("prototypes")[0](mj.Params({}, ()), task._replace(query=lacking), KEY)


def test_a_net_of_several_modalities():
    """Absent rows reach no output, gradient or normalisation statistic, whether it reads vectors or tokens."""
    rng = np.random.default_rng(0)
    strokes, waves = jnp.asarray(rng.normal(size=(4, 6, 3))), jnp.asarray(rng.normal(size=(4, 5)))
    present = {
        "stroke": jnp.array([True, True, False, False]),
        "audio": jnp.array([True, False, True, False]),
    }
    x = mj.data.as_modalities({"stroke": strokes, "audio": waves}, present)
    spoiled = {
        "stroke": strokes.at[2:].set(jnp.nan),
        "audio": waves.at[1].set(jnp.nan).at[3].set(9.0),
    }
    bottleneck = fusion.Bottleneck(
        sorted(present), 4, layers=1, fusion_layer=0, heads=1, rngs=nnx.Rngs(2)
    )
    for fuse in (mj.nets.fusion.mean, bottleneck):
        encoders = {
            "stroke": TemporalConv(3, 4, width=4, blocks=1, rngs=nnx.Rngs(0)),
            "audio": mj.nets.MLP(5, (6,), 4, rngs=nnx.Rngs(1)),
        }
        apply, params = mj.nets.functional(
            mj.nets.Multimodal(encoders, fuse, 4, WAYS, rngs=nnx.Rngs(3))
        )
        run = jax.jit(jax.value_and_grad(lambda params, x: jnp.sin(apply(params, x)).sum()))  # noqa: B023
        assert_close(run(params, x._replace(value=spoiled)), run(params, x), 0)
        if fuse is mj.nets.fusion.mean:
            encoded = mj.Modalities(apply(params, x, method="encode"), x.present)
            assert_close(apply(params, encoded, method="decide"), apply(params, x), 1e-6)
        gradient = run(params, x)[1].fast["encoders"]
        assert np.any(gradient["stroke"]["head"]["kernel"]) and np.any(
            gradient["audio"]["head"]["kernel"]
        )


def test_errors_of_a_net_of_several_modalities():
    encoders = {"image": mj.nets.MLP(5, (6,), 8, rngs=nnx.Rngs(1))}
    net = mj.nets.Multimodal(encoders, mj.nets.fusion.mean, 8, 2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"encoders for \['image'\], got \['imgae'\]"):
        net(mj.data.as_modalities({"imgae": jnp.ones((2, 5))}))
    with pytest.raises(ValueError, match="got ArrayImpl"):
        net(jnp.ones((2, 5)))
    with pytest.raises(ValueError, match="outputs and rngs"):
        mj.nets.Multimodal(encoders, mj.nets.fusion.mean, 8)


def test_static_weights_that_are_fast_descend_in_the_inner_loop():
    task = first(make_tasks(1, 6))
    apply = late_head(features)
    loss = mj.losses.cross_entropy(apply)
    start = mj.Params({"weights": dict.fromkeys(NAMES, jnp.zeros(()))}, ())
    descend = mj.inner_loop(leave_one_out_loss(features, WAYS), optax.sgd(0.1), steps=3)
    moved = descend.adapt(start, task.support, KEY)
    losses = [
        leave_one_out_loss(features, WAYS)(params, task.support, KEY)[0]
        for params in (start, moved)
    ]
    assert losses[1] < losses[0]
    adapted = modal_prototypes(features, WAYS).adapt(moved, task.support, KEY)
    assert np.isfinite(loss(adapted, task.query, KEY)[0])
