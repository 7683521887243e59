"""The controls of side information: wrong information does harm, and all rows are paired."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from described_problems import PARAMS, WAYS, WIDTH, describe, embed, make_tasks

import metajax as mj
from metajax.modalities import adaptive_prototypes, compare_side_information

KEY = jax.random.key(0)
ADAPTATION = adaptive_prototypes(embed, describe, WAYS, WIDTH)
HEAD = mj.losses.cross_entropy(mj.linear_head(embed))
LOSS = mj.query_loss(ADAPTATION, HEAD)


def test_the_controls_show_what_the_information_adds():
    tasks = make_tasks(200, shots=1)
    params = ADAPTATION.init(PARAMS, KEY)
    plain = mj.query_loss(mj.prototypes(embed, WAYS), HEAD)
    without = mj.evaluate(plain, params, tasks, KEY)["accuracy"].per_task
    text = tasks.support.info["text"]
    poor = {"text": text * jnp.array([1.0, 0.0, 0.0, 0.0])[None, None]}
    compared = compare_side_information(LOSS, params, tasks, KEY, names_only=poor, tasks_at_once=50)
    assert list(compared) == ["given", "permuted", "random", "no shots", "names only"]
    gain = {
        row: mj.summarize(summaries["accuracy"].per_task - without)
        for row, summaries in compared.items()
    }
    assert gain["given"].mean > gain["given"].interval
    for row in ("permuted", "random"):
        assert gain[row].mean < -gain[row].interval, "wrong information does harm"
    assert compared["no shots"]["accuracy"].mean > 0.7, "zero-shot: the true means are given"
    assert gain["names only"].mean < gain["given"].mean
    rolled = tasks.support._replace(info={"text": jnp.roll(text, 1, axis=1)})
    again = mj.evaluate(LOSS, params, tasks._replace(support=rolled), KEY, tasks_at_once=50)
    permuted = compared["permuted"]["accuracy"].per_task
    np.testing.assert_array_equal(permuted, again["accuracy"].per_task)


def test_controls_need_two_tasks_with_information():
    params = ADAPTATION.init(PARAMS, KEY)
    with pytest.raises(ValueError, match="two tasks or more"):
        compare_side_information(LOSS, params, make_tasks(1), KEY)
    tasks = make_tasks(2)
    without = tasks._replace(support=tasks.support._replace(info=()))
    with pytest.raises(ValueError, match=r"each with support\.info"):
        compare_side_information(LOSS, params, without, KEY)
