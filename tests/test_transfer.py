"""What is known of a class stands in for shots: the heads that are written, their limits, and the controls."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import assert_close

import metajax as mj
from metajax.modalities import (
    adaptive_prototypes,
    compare_side_information,
    cross_modal_prototypes,
    described_head,
)

WAYS, WIDTH, KEY = 3, 5, jax.random.key(0)


def embed(params, x, key=None, *, reference=None):
    return x @ params.slow["image"]


def describe(params, info, key=None):
    return info["text"] @ params.slow["text"]


PARAMS = mj.Params(
    {},
    {
        "image": jnp.eye(WIDTH),
        "text": jnp.asarray(np.random.default_rng(9).normal(size=(4, WIDTH))),
    },
)
LEARNERS = {
    "am3": adaptive_prototypes(embed, describe, WAYS, WIDTH),
    "one more shot": cross_modal_prototypes(embed, describe, WAYS),
    "fumi": mj.chain(
        described_head(describe, WAYS, WIDTH, hidden=6),
        mj.inner_loop(mj.losses.cross_entropy(mj.linear_head(embed)), optax.sgd(0.1), steps=2),
    ),
}
every = pytest.mark.parametrize("name", LEARNERS)


def make_tasks(number=4, shots=2, seed=0):
    """Classes whose mean is what their text says, through a map that is not known."""
    rng = np.random.default_rng(seed)
    text = rng.normal(size=(number, WAYS, 4))
    centre = text @ np.random.default_rng(9).normal(size=(4, WIDTH))

    def batch(rows):
        x = centre[:, :, None] + 2 * rng.normal(size=(number, WAYS, rows, WIDTH))
        y = jnp.broadcast_to(
            jnp.repeat(jnp.arange(WAYS, dtype=jnp.int32), rows)[None], (number, WAYS * rows)
        )
        return mj.Batch(jnp.asarray(x.reshape(number, -1, WIDTH)), y)

    return mj.Task(batch(shots)._replace(info={"text": jnp.asarray(text)}), batch(6))


def start(name):
    params = LEARNERS[name].init(PARAMS, KEY)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64) + 0.1, params)


@every
def test_padding_is_inert_and_every_parameter_receives_gradient(name):
    task = jax.tree.map(lambda leaf: leaf[0], make_tasks())
    rows = len(task.support.y)
    padded = task.support._replace(
        x=jnp.concatenate([task.support.x, 9 * jnp.ones((2, WIDTH))]),
        y=jnp.concatenate([task.support.y, jnp.zeros(2, jnp.int32)]),
        weight=jnp.concatenate([jnp.ones(rows), jnp.zeros(2)]),
    )
    loss = mj.query_loss(LEARNERS[name], mj.losses.cross_entropy(mj.linear_head(embed)))
    run = jax.jit(jax.value_and_grad(lambda params, task: loss(params, task, KEY)[0]))
    plain = run(start(name), task._replace(support=task.support._replace(weight=jnp.ones(rows))))
    assert_close(run(start(name), task._replace(support=padded)), plain, 1e-9)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(plain[1]))


def test_class_means_lean_on_what_is_known():
    """C = λ p + (1 - λ) w, in numbers; without a shot c = w, and as one more shot c = (Σ f + w) / (K + 1)."""
    support = jax.tree.map(lambda leaf: leaf[0], make_tasks()).support
    w = np.asarray(describe(PARAMS, support.info))
    f = np.asarray(support.x).reshape(WAYS, 2, WIDTH)
    params = start("am3")
    share = (
        1
        / (1 + np.exp(-(w @ np.asarray(params.rule["kernel"]) + float(params.rule["bias"]))))[
            :, None
        ]
    )
    params = params._replace(slow=PARAMS.slow)
    head = lambda name, support: LEARNERS[name].adapt(params, support, KEY).fast["head"]
    centres = {
        "am3": share * f.mean(axis=1) + (1 - share) * w,
        "one more shot": (f.sum(axis=1) + w) / 3,
    }
    for name, centre in centres.items():
        assert_close(
            head(name, support), {"kernel": 2 * centre.T, "bias": -(centre**2).sum(axis=1)}, 1e-9
        )
        unseen = head(name, support._replace(weight=jnp.array([0.0, 0.0, 1.0, 1.0, 1.0, 1.0])))
        assert_close(unseen["kernel"][:, 0], 2 * w[0], 1e-9)
        assert_close(unseen["kernel"][:, 1:], 2 * centre.T[:, 1:], 1e-9)


def test_the_controls_tell_what_information_was_worth():
    tasks, adaptation = make_tasks(200, shots=1), LEARNERS["am3"]
    params = adaptation.init(PARAMS, KEY)
    loss = mj.query_loss(adaptation, mj.losses.cross_entropy(mj.linear_head(embed)))
    plain = mj.query_loss(
        mj.prototypes(embed, WAYS), mj.losses.cross_entropy(mj.linear_head(embed))
    )
    without = mj.evaluate(plain, params, tasks, KEY)["accuracy"].per_task
    poor = {"text": tasks.support.info["text"] * jnp.array([1.0, 0.0, 0.0, 0.0])[None, None]}
    judged = compare_side_information(loss, params, tasks, KEY, names_only=poor, tasks_at_once=50)
    assert list(judged) == ["given", "permuted", "random", "no shots", "names only"]
    gain = {name: mj.summarize(one["accuracy"].per_task - without) for name, one in judged.items()}
    assert gain["given"].mean > gain["given"].interval
    for name in ("permuted", "random"):
        assert gain[name].mean < -gain[name].interval, "wrong information does harm"
    assert judged["no shots"]["accuracy"].mean > 0.7, "zero-shot: the true means are known"
    assert gain["names only"].mean < gain["given"].mean
    rolled = tasks.support._replace(info={"text": jnp.roll(tasks.support.info["text"], 1, axis=1)})
    again = mj.evaluate(loss, params, tasks._replace(support=rolled), KEY)["accuracy"].per_task
    np.testing.assert_array_equal(judged["permuted"]["accuracy"].per_task, again)


@every
def test_errors_say_what_to_do(name):
    task = jax.tree.map(lambda leaf: leaf[0], make_tasks())
    with pytest.raises(ValueError, match="no info on its classes"):
        LEARNERS[name].adapt(start(name), task.support._replace(info=()), KEY)
    few = {"text": task.support.info["text"][:2]}
    with pytest.raises(ValueError, match=r"describe must give \[3, 5\].*got \[2, 5\]"):
        LEARNERS[name].adapt(start(name), task.support._replace(info=few), KEY)
    if name != "one more shot":
        with pytest.raises(ValueError, match=r"no rule yet|needs a rule for each"):
            LEARNERS[name].adapt(PARAMS, task.support, KEY)


def test_controls_need_something_to_control():
    loss = mj.query_loss(LEARNERS["am3"], mj.losses.cross_entropy(mj.linear_head(embed)))
    tasks = make_tasks(1)
    with pytest.raises(ValueError, match="two tasks or more"):
        compare_side_information(loss, start("am3"), tasks, KEY)
    without = make_tasks(2)._replace(support=make_tasks(2).support._replace(info=()))
    with pytest.raises(ValueError, match=r"each with support\.info"):
        compare_side_information(loss, start("am3"), without, KEY)
