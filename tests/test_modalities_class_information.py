"""Heads written from side information about classes: their equations, limits and errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from described_problems import PARAMS, WAYS, WIDTH, describe, embed, make_tasks
from problems import assert_close, first

import metajax as mj
from metajax.modalities import adaptive_prototypes, cross_modal_prototypes, described_head

KEY = jax.random.key(0)
LOSS = mj.losses.cross_entropy(mj.linear_head(embed))
LEARNERS = {
    "am3": adaptive_prototypes(embed, describe, WAYS, WIDTH),
    "one more shot": cross_modal_prototypes(embed, describe, WAYS),
    "fumi": mj.chain(
        described_head(describe, WAYS, WIDTH, hidden=6),
        mj.inner_loop(LOSS, optax.sgd(0.1), steps=2),
    ),
}
every = pytest.mark.parametrize("name", LEARNERS)


@functools.cache
def start(name):
    params = LEARNERS[name].init(PARAMS, KEY)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64) + 0.1, params)


@every
def test_padding_has_no_influence_and_every_parameter_receives_gradient(name):
    task = first(make_tasks())
    rows = len(task.support.y)
    weight = jnp.concatenate([jnp.ones(rows), jnp.zeros(2)])
    x = jnp.concatenate([task.support.x, jnp.zeros((2, WIDTH))])
    y = jnp.concatenate([task.support.y, jnp.zeros(2, jnp.int32)])
    padded = [
        task._replace(support=task.support._replace(x=x.at[rows:].set(value), y=y, weight=weight))
        for value in (0.0, 9.0)
    ]
    loss = mj.query_loss(LEARNERS[name], LOSS)
    run = jax.jit(jax.value_and_grad(lambda params, task: loss(params, task, KEY)[0]))
    zeros, nines = (run(start(name), task) for task in padded)
    assert_close(zeros, nines, 1e-9)
    np.testing.assert_allclose(zeros[0], loss(start(name), task, KEY)[0], rtol=1e-9)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(zeros[1]))


def test_class_means_are_mixed_with_side_information():
    """The equations in numbers. A class without a shot has c = w, and one more shot is w."""
    support = first(make_tasks()).support
    w = np.asarray(describe(PARAMS, support.info))
    f = np.asarray(support.x).reshape(WAYS, 2, WIDTH)
    params = start("am3")._replace(slow=PARAMS.slow)
    logit = w @ np.asarray(params.rule["kernel"]) + float(params.rule["bias"])
    share = (1 / (1 + np.exp(-logit)))[:, None]
    centres = {
        "am3": share * f.mean(axis=1) + (1 - share) * w,
        "one more shot": (f.sum(axis=1) + w) / 3,
    }
    one_absent = support._replace(weight=jnp.array([0.0, 0.0, 1.0, 1.0, 1.0, 1.0]))
    for name, centre in centres.items():
        adapt = jax.jit(LEARNERS[name].adapt)
        head = adapt(params, support, KEY).fast["head"]
        expected = {"kernel": 2 * centre.T, "bias": -(centre**2).sum(axis=1)}
        assert_close(head, expected, 1e-9)
        unseen = adapt(params, one_absent, KEY).fast["head"]
        assert_close(unseen["kernel"][:, 0], 2 * w[0], 1e-9)
        assert_close(unseen["bias"][0], -(w[0] ** 2).sum(), 1e-9)
        assert_close(unseen["kernel"][:, 1:], 2 * centre.T[:, 1:], 1e-9)


def test_the_head_is_written_under_any_entry():
    support, params = first(make_tasks()).support, start("am3")
    made = {
        "am3": adaptive_prototypes(embed, describe, WAYS, WIDTH, entry="mine"),
        "one more shot": cross_modal_prototypes(embed, describe, WAYS, entry="mine"),
        "fumi": described_head(describe, WAYS, WIDTH, hidden=6, entry="mine"),
    }
    for name, adaptation in made.items():
        rule = start("fumi").rule[0] if name == "fumi" else params.rule
        adapted = adaptation.adapt(params._replace(rule=rule), support, KEY)
        assert adapted.fast.keys() == {"mine"}
        assert adapted.fast["mine"]["kernel"].shape == (WIDTH, WAYS)


@every
def test_errors_say_what_to_do(name):
    task = first(make_tasks())
    adapt = LEARNERS[name].adapt
    with pytest.raises(ValueError, match="no info on its classes"):
        adapt(start(name), task.support._replace(info=()), KEY)
    few = {"text": task.support.info["text"][:2]}
    with pytest.raises(ValueError, match=r"describe must give \[3, 5\].*got \[2, 5\]"):
        adapt(start(name), task.support._replace(info=few), KEY)
    with pytest.raises(ValueError, match=r"params\.fast must be a dict"):
        adapt(start(name)._replace(fast=()), task.support, KEY)
    if name != "one more shot":
        with pytest.raises(ValueError, match=r"no rule yet|needs a rule for each"):
            adapt(PARAMS, task.support, KEY)


def test_sizes_are_positive():
    for make in (
        lambda: adaptive_prototypes(embed, describe, 0, WIDTH),
        lambda: cross_modal_prototypes(embed, describe, 0),
        lambda: described_head(describe, 0, WIDTH),
    ):
        with pytest.raises(ValueError, match="ways must be a whole number, 1 or more, got 0"):
            make()
    with pytest.raises(ValueError, match="width must be"):
        adaptive_prototypes(embed, describe, WAYS, 0)
    with pytest.raises(ValueError, match="hidden must be"):
        described_head(describe, WAYS, WIDTH, hidden=0)
