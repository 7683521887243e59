"""Distillation between modalities: a frozen teacher, absent rows, and learned importance."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import assert_close

import metajax as mj
from metajax.modalities import distill_features, distill_logits, meta_distillation, pair_loss

N, WAYS, WIDTH, NAMES, KEY = 8, 3, 4, ("audio", "image", "text"), jax.random.key(0)


def encode(params, x, key=None, *, reference=None):
    """Logits of a linear net for each modality."""
    return {name: x.value[name] @ params.fast[name] for name in x.value}


def task_loss_of_net(params, batch, key):
    """Every modality classifies by itself, where it is present."""
    total = jnp.zeros(())
    for name, logits in encode(params, clean(batch.x)).items():
        value = optax.softmax_cross_entropy_with_integer_labels(logits, batch.y)
        total = total + jnp.where(batch.x.present[name], value, 0).mean()
    return total, {}


def inner_loss(params, batch, key):
    return task_loss_of_net(params, batch, key)[0] + teach(params, batch, key)[0], {}


teach = meta_distillation(encode, measure=distill_logits)


def clean(x):
    return x._replace(value={n: jnp.where(x.present[n][:, None], x.value[n], 0) for n in x.value})


def make_batch(seed=0, missing=0.3, rows=N):
    rng = np.random.default_rng(seed)
    value = {name: jnp.asarray(rng.normal(size=(rows, WIDTH))) for name in NAMES}
    present = {name: jnp.asarray(rng.uniform(size=rows) >= missing) for name in NAMES}
    weight = jnp.asarray(rng.choice([0.0, 1.0, 2.0], rows))
    return mj.Batch(
        mj.Modalities(value, present),
        jnp.asarray(rng.integers(0, WAYS, rows), jnp.int32),
        weight=weight,
    )


def make_params(seed=0, importance=(0.2, -0.3, 0.5)):
    rng = np.random.default_rng(seed)
    fast = {name: jnp.asarray(rng.normal(size=(WIDTH, WAYS))) for name in NAMES}
    return mj.Params(
        fast, {"importance": dict(zip(NAMES, map(jnp.asarray, importance), strict=True))}
    )


def soft(logits):
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def test_values_against_loops():
    rng = np.random.default_rng(0)
    s, t = rng.normal(size=(2, 5, WAYS))
    w = np.array([1.0, 0.0, 2.0, 0.5, 0.0])
    p, q = soft(t / 3), soft(s / 3)
    logits = jax.jit(distill_logits)
    divergence = (p * np.log(p / q)).sum(axis=1)
    assert_close(logits(s, t, temperature=3.0, weight=w), 9 * w @ divergence / 3.5)
    expected = w @ ((s - t) ** 2).mean(axis=1) / 3.5
    features = jax.jit(distill_features)
    assert_close(features(s, t, weight=w), expected)
    assert_close(features(s[..., None], t[..., None], weight=w), expected)
    assert_close(logits(s, t), logits(s, t, weight=np.ones(5)))


def test_a_student_equal_to_its_teacher_has_no_gradient():
    t = jnp.asarray(np.random.default_rng(0).normal(size=(5, WAYS)))
    for measure in (distill_logits, distill_features):
        value, slope = jax.jit(jax.value_and_grad(measure))(t, t)
        assert value == 0
        np.testing.assert_allclose(slope, 0, atol=1e-16)
    absent = t.at[:, 0].set(-1e9)  # the head of a class without support
    assert np.isfinite(jax.jit(jax.grad(distill_logits))(t, absent)).all()


def test_the_gradient_has_one_size_at_every_temperature():
    """T (q - p) / n; for large T, the centred difference of the logits over n · ways."""
    s, t = (jnp.asarray(np.random.default_rng(seed).normal(size=(5, WAYS))) for seed in (0, 1))
    slope = jax.jit(jax.grad(lambda s, temperature: distill_logits(s, t, temperature=temperature)))
    for temperature in (1.0, 4.0):
        expected = temperature * (soft(s / temperature) - soft(t / temperature)) / 5
        np.testing.assert_allclose(slope(s, temperature), expected, rtol=1e-10)
    centred = (s - t) - (s - t).mean(axis=1, keepdims=True)
    np.testing.assert_allclose(slope(s, 1e5), centred / (5 * WAYS), atol=1e-5)


@pytest.mark.parametrize("measure", [distill_logits, distill_features])
def test_the_teacher_is_frozen_in_the_first_derivative_only(measure):
    """The student's gradient has a derivative by the teacher, and it is the true one."""
    s, t, w = make_batch().x.value["audio"], make_batch(1).x.value["audio"], jnp.arange(1.0, N + 1)
    by = jax.jit(jax.grad(lambda s, t, w: measure(s, t, weight=w), argnums=(0, 1, 2)))
    along = jax.jit(lambda s, t, way: jax.jvp(lambda t: by(s, t, w), (t,), (way,))[1])
    to_student, to_teacher, to_weight = by(s, t, w)
    assert to_student.any() and not to_teacher.any() and to_weight.any()
    assert_close(jax.jvp(lambda t: measure(s, t), (t,), (t,))[1], jnp.zeros(()))
    way, step = make_batch(2).x.value["audio"], 1e-5
    moved, _, _ = along(s, t, way)
    expected = (by(s, t + step * way, w)[0] - by(s, t - step * way, w)[0]) / (2 * step)
    assert_close(moved, expected, 1e-8)
    assert np.abs(moved).max() > 1e-3


@functools.cache
def compiled(kind):
    """Value and gradient by params and batch: of one pair, of all pairs, and of MetaKD."""
    metakd = mj.query_loss(mj.inner_loop(inner_loss, optax.sgd(0.1), steps=2), task_loss_of_net)
    loss = {
        "logits": pair_loss(
            encode, "audio", "image", functools.partial(distill_logits, temperature=3.0)
        ),
        "features": pair_loss(encode, "audio", "image", distill_features),
        "all pairs": teach,
        "metakd": lambda params, batch, key: metakd(params, mj.Task(batch, batch), key),
    }[kind]
    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True, allow_int=True))


every = pytest.mark.parametrize("kind", ["logits", "features", "all pairs", "metakd"])


@every
def test_absent_values_are_ignored(kind):
    batch, params = make_batch(), make_params()
    spoiled = {
        n: jnp.where(batch.x.present[n][:, None], x, jnp.nan) for n, x in batch.x.value.items()
    }
    assert any(jnp.isnan(x).any() for x in spoiled.values())
    ours = compiled(kind)(params, batch, KEY)
    again = compiled(kind)(params, batch._replace(x=batch.x._replace(value=spoiled)), KEY)
    assert ours[0][0] > 0
    for one, other in (
        (ours[0], again[0]),
        (ours[1][0], again[1][0]),
        (ours[1][1].x.value, again[1][1].x.value),
    ):
        assert jax.tree.all(jax.tree.map(np.array_equal, one, other))
    for name, gradient in ours[1][1].x.value.items():
        assert not np.asarray(gradient)[~np.asarray(batch.x.present[name])].any()


@every
def test_names_tell_modalities_apart(kind):
    batch, params = make_batch(), make_params()
    turned = lambda tree: {name: tree[name] for name in reversed(NAMES)}
    again = batch._replace(x=mj.Modalities(*map(turned, batch.x)))
    other = mj.Params(turned(params.fast), {"importance": turned(params.slow["importance"])})
    assert_close(compiled(kind)(other, again, KEY)[0], compiled(kind)(params, batch, KEY)[0], 0)


@pytest.mark.parametrize("kind", ["all pairs", "metakd"])
def test_modalities_may_change_roles(kind):
    """With other names for the same modalities, values stay and gradients are renamed."""
    role = dict(zip(NAMES, np.roll(NAMES, 1).tolist(), strict=True))
    renamed = lambda tree: {role[name]: tree[name] for name in tree}
    batch, params = make_batch(), make_params()
    again = batch._replace(x=mj.Modalities(*map(renamed, batch.x)))
    other = mj.Params(renamed(params.fast), {"importance": renamed(params.slow["importance"])})
    value, (gradient, _) = compiled(kind)(params, batch, KEY)
    value_again, (gradient_again, _) = compiled(kind)(other, again, KEY)
    assert_close(value_again, value, 1e-12)
    assert_close(gradient_again.fast, renamed(gradient.fast), 1e-12)
    assert_close(gradient_again.slow["importance"], renamed(gradient.slow["importance"]), 1e-12)


@pytest.mark.parametrize("kind", ["all pairs", "metakd"])
def test_every_parameter_receives_gradient(kind):
    _, (gradient, _) = compiled(kind)(make_params(), make_batch(missing=0.1), KEY)
    assert all(np.abs(leaf).max() > 1e-6 for leaf in jax.tree.leaves(gradient))


@jax.jit
def each_pair(params, batch):
    """The loss of each (student, teacher)."""
    return {
        f"{student} {teacher}": pair_loss(encode, student, teacher, distill_logits)(
            params, batch, KEY
        )[0]
        for student, teacher in itertools.permutations(NAMES, 2)
    }


def test_equal_importance_is_the_plain_sum_and_the_more_important_teaches_more():
    batch = make_batch()
    pairs = each_pair(make_params(), batch)
    run = lambda importance: compiled("all pairs")(make_params(importance=importance), batch, KEY)
    assert_close(run((0.7, 0.7, 0.7))[0][0], sum(pairs.values()), 1e-12)
    share = {"audio": 0.2, "image": 0.7, "text": 0.1}  # ω, up to a factor
    weighted = 0.0
    for pair, value in pairs.items():
        student, teacher = pair.split()
        weighted += share[teacher] / share[student] * value
    importance = [np.log(5 * share[name]) for name in NAMES]
    assert_close(run(importance)[0][0], weighted, 1e-12)


def test_a_pair_without_rows_and_rows_of_weight_0_add_nothing():
    batch, params = make_batch(), make_params()
    absent = {**batch.x.present, "text": jnp.zeros(N, bool)}
    never = batch._replace(x=batch.x._replace(present=absent))
    two = mj.Modalities(*({name: tree[name] for name in NAMES[:2]} for tree in never.x))
    importance = {name: params.slow["importance"][name] for name in NAMES[:2]}
    pair = mj.Params(params.fast, {"importance": importance})
    expected = compiled("all pairs")(pair, batch._replace(x=two), KEY)[0][0]
    assert_close(compiled("all pairs")(params, never, KEY)[0][0], expected, 1e-12)
    nothing = compiled("all pairs")(params, batch._replace(weight=jnp.zeros(N)), KEY)
    assert nothing[0][0] == 0 and not any(leaf.any() for leaf in jax.tree.leaves(nothing[1][0]))


@pytest.mark.parametrize("part", ["fast", "slow"])
def test_the_meta_gradient_is_exact_through_the_steps(part):
    """By the start of every net, teachers' too, and by importance, against finite differences."""
    params, batch = make_params(), make_batch(missing=0.1)
    run = lambda params: compiled("metakd")(params, batch, KEY)
    start, gradient = getattr(params, part), getattr(run(params)[1][0], part)
    rng, step = np.random.default_rng(0), 1e-5
    way = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), start)

    def moved(size):
        new = jax.tree.map(lambda leaf, change: leaf + size * change, start, way)
        return run(params._replace(**{part: new}))[0][0]

    slope = sum(jax.tree.leaves(jax.tree.map(lambda g, w: (g * w).sum(), gradient, way)))
    np.testing.assert_allclose(slope, (moved(step) - moved(-step)) / (2 * step), rtol=1e-6)
    assert abs(slope) > 1e-3


def test_strategies_that_need_a_symmetric_hessian_are_wrong():
    """`mixed_mode` differs from `unroll` through a frozen teacher, as the module says."""
    batch, loss = make_batch(missing=0.1), pair_loss(encode, "audio", "image", distill_features)

    @jax.jit
    def by_teacher(params):
        """The gradient by the start of the teacher, by both strategies."""

        def gradient(strategy):
            descend = mj.inner_loop(loss, optax.sgd(0.5), steps=1, differentiate=strategy)
            task_loss = mj.query_loss(descend, task_loss_of_net)
            slope, _ = jax.grad(task_loss, has_aux=True)(params, mj.Task(batch, batch), KEY)
            return slope.fast["image"]

        return gradient(mj.unroll()), gradient(mj.mixed_mode())

    exact, mixed = by_teacher(make_params())
    assert np.abs(mixed - exact).max() > 0.01 * np.abs(exact).max()


def test_importance_moves_to_the_better_teacher():
    """A third of the labels is wrong. Predictions from images are better labels for the audio."""
    noise, rows = {"audio": 1.0, "image": 0.2}, 24

    def draw(key):
        label_key, wrong_key, *keys = jax.random.split(key, 4)
        y = jax.random.randint(label_key, (2 * rows,), 0, WAYS)
        hint = jax.nn.one_hot(y, WAYS)
        x = mj.data.as_modalities(
            {
                n: hint + noise[n] * jax.random.normal(k, hint.shape)
                for n, k in zip(noise, keys, strict=True)
            }
        )
        wrong = jax.random.bernoulli(wrong_key, 1 / 3, y.shape) & (jnp.arange(2 * rows) < rows)
        part = lambda where: jax.tree.map(lambda leaf: leaf[where], mj.Batch(x, (y + wrong) % WAYS))
        return mj.Task(part(slice(rows)), part(slice(rows, None)))

    # The nets start from zero in every task: importance alone is learned across tasks.
    start = {name: jnp.zeros((WAYS, WAYS)) for name in noise}
    metakd = mj.query_loss(mj.inner_loop(inner_loss, optax.sgd(0.5), steps=8), task_loss_of_net)
    outer = mj.outer_loop(
        lambda slow, task, key: metakd(mj.Params(start, slow.slow), task, key), optax.adam(0.05)
    )

    @jax.jit
    def learn(state):
        def step(state, key):
            return outer.step(state, jax.vmap(draw)(jax.random.split(key, 8)), key)[0], None

        return jax.lax.scan(step, state, jax.random.split(KEY, 40))[0]

    state = learn(outer.init(mj.Params((), {"importance": dict.fromkeys(noise, jnp.zeros(()))})))
    assert state.params.slow["importance"]["image"] - state.params.slow["importance"]["audio"] > 0.5


def test_errors_say_what_to_do():
    batch, params = make_batch(), make_params()
    with pytest.raises(
        ValueError,
        match=r"\['imge'\] are not among the modalities, which are \['audio', 'image', 't",
    ):
        pair_loss(encode, "audio", "imge", distill_logits)(params, batch, KEY)
    misspelled = {"audio": 0.0, "imge": 0.0, "text": 0.0}
    with pytest.raises(
        ValueError,
        match=r"\['imge'\] are not among the modalities, which are \['audio', 'image', 't",
    ):
        teach(params._replace(slow={"importance": misspelled}), batch, KEY)
    with pytest.raises(
        ValueError,
        match=r"params.slow\['importance'\] has entries for \['audio', 'text'\]; .*\['image'\]",
    ):
        teach(params._replace(slow={"importance": {"audio": 0.0, "text": 0.0}}), batch, KEY)
    with pytest.raises(ValueError, match=r"params.slow\['importance'\] has entries for \[\]"):
        teach(params._replace(slow=()), batch, KEY)
    alone = batch._replace(x=mj.Modalities(*({"image": tree["image"]} for tree in batch.x)))
    with pytest.raises(ValueError, match=r"two modalities or more, got \['image'\]"):
        teach(params, alone, KEY)
    with pytest.raises(ValueError, match="x of the batch must be a Modalities, got"):
        teach(params, batch._replace(x=jnp.ones((N, 2))), KEY)
    with pytest.raises(ValueError, match=r"\(4, 2\), \(3, 2\)"):
        distill_logits(jnp.ones((4, 2)), jnp.ones((3, 2)))
    with pytest.raises(ValueError, match=r"weights \[n\], got shapes \(\(4,\), \(4,\), \(4,\)\)"):
        distill_features(jnp.ones(4), jnp.ones(4))
    with pytest.raises(ValueError, match=r"\(4, 2\), \(4, 2\), \(3,\)"):
        distill_features(jnp.ones((4, 2)), jnp.ones((4, 2)), weight=jnp.ones(3))
    with pytest.raises(ValueError, match=r"Logits must be \[n, ways\]"):
        distill_logits(jnp.ones((4, 4, 3)), jnp.ones((4, 4, 3)))
