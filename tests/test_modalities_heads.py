"""Heads of several modalities: an absent one has no influence, and scores add up."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from modal_problems import (
    KEY,
    NAMES,
    WAYS,
    check_gradients_and_names,
    check_that_absent_values_are_ignored,
    learner,
    make_tasks,
    with_x,
)
from problems import assert_close, first

import metajax as mj
from metajax.modalities import late_head, modal_prototypes, modal_scores
from metajax.nets import identity_encoder

EMPTY = mj.Params({}, {})


@functools.cache
def adapted(ways):
    """A compiled `modal_prototypes` of features."""
    write = modal_prototypes(identity_encoder, ways)
    return jax.jit(lambda support: write.adapt(EMPTY, support, KEY))


def test_absent_values_are_ignored():
    check_that_absent_values_are_ignored("prototypes")


def test_every_parameter_receives_gradient_and_names_tell_modalities_apart():
    check_gradients_and_names("prototypes")


def test_all_absent_is_the_prior_and_one_modality_alone_is_prototypes():
    task = first(make_tasks(1, 2))
    present = task.query.x.present
    nowhere = {name: here & False for name, here in present.items()}
    params, apply = adapted(WAYS + 1)(task.support), late_head(identity_encoder)
    logits = apply(params, task.query.x._replace(present=nowhere))
    np.testing.assert_array_equal(logits, np.tile([0, 0, 0, -1e9], (len(logits), 1)))
    alone = apply(params, task.query.x._replace(present={**nowhere, "image": present["image"]}))
    support = task.support._replace(x=task.support.x.value["image"])
    plain = mj.prototypes(identity_encoder, WAYS + 1).adapt(EMPTY, support, KEY)
    expected = mj.linear_head()(plain, task.query.x.value["image"])
    assert_close(alone[:, :WAYS], expected[:, :WAYS], 1e-12)


def test_a_class_that_lacks_a_modality_is_decided_by_the_others():
    """Without audio, class 0 gets the audio head that is the mean of the other classes'."""
    task = first(make_tasks(1, 3))
    x = task.support.x
    here = x.present["audio"] & (task.support.y != 0)
    support = task.support._replace(x=x._replace(present={**x.present, "audio": here}))
    head = adapted(WAYS)(support).fast["head"]
    for leaf in (head["kernel"]["audio"], head["bias"]["audio"][None]):
        np.testing.assert_allclose(leaf[:, 0], leaf[:, 1:].mean(axis=1), rtol=1e-12)


def test_logits_are_weighted_scores_plus_the_prior_under_any_entry():
    task = first(make_tasks(1, 4, missing=0.3))
    write = modal_prototypes(identity_encoder, WAYS, entry="heads")
    params = jax.jit(write.adapt)(EMPTY, task.support, KEY)
    log_weights = {"audio": jnp.array(0.7), "image": jnp.array(-0.4)}
    params = params._replace(fast={**params.fast, "ell": log_weights})
    apply = late_head(identity_encoder, entry="heads", weights_entry="ell")
    x, head = task.query.x, params.fast["heads"]
    scores = modal_scores(x.value, x.present, head)
    expected = sum(np.exp(log_weights[name]) * scores[name] for name in NAMES) + head["prior"][None]
    assert_close(apply(params, x), expected, 1e-12)
    for name in NAMES:
        absent = ~np.asarray(x.present[name])
        assert absent.any() and not np.asarray(scores[name])[absent].any()
    plain = late_head(identity_encoder, entry="heads")
    assert_close(plain(params, x), scores["audio"] + scores["image"] + head["prior"][None], 1e-12)


def test_errors_say_what_to_do():
    task = first(make_tasks(1, 0))
    write, apply = modal_prototypes(identity_encoder, WAYS), late_head(identity_encoder)
    with pytest.raises(ValueError, match="ways must be"):
        modal_prototypes(identity_encoder, 0)
    plain = task.support._replace(x=jnp.ones((9, 2)))
    with pytest.raises(ValueError, match=r"x of the batch must be a Modalities, got ArrayImpl"):
        write.adapt(EMPTY, plain, KEY)
    with pytest.raises(ValueError, match=r"must be a dict to write its entry 'head', got tuple"):
        write.adapt(mj.Params((), {}), task.support, KEY)
    with pytest.raises(ValueError, match="Labels must be int"):
        write.adapt(EMPTY, task.support._replace(y=jnp.ones(9)), KEY)
    with pytest.raises(ValueError, match=r"params\.fast has no entry 'head'"):
        apply(EMPTY, task.query.x)
    of_a_net = mj.Params({"head": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}, {})
    with pytest.raises(ValueError, match=r"not a head for each modality.* give another entry="):
        apply(of_a_net, task.query.x)
    with pytest.raises(ValueError, match="x must be a Modalities"):
        apply(EMPTY, plain.x)
    params = adapted(WAYS)(task.support)
    few = params._replace(fast={**params.fast, "modality_weights": {"audio": 0.0}})
    with pytest.raises(
        ValueError,
        match=r"params.fast\['modality_weights'\].*add one for each of \['image'\]",
    ):
        apply(few, task.query.x)
    kernel = {"audio": params.fast["head"]["kernel"]["audio"]}
    few = params._replace(fast={"head": {**params.fast["head"], "kernel": kernel}})
    with pytest.raises(ValueError, match=r"params.fast\['head'\].*add one for each of \['image'\]"):
        apply(few, task.query.x)


def test_support_and_query_need_the_same_modalities():
    task = first(make_tasks(1, 0))
    lacking = with_x(lambda x: mj.data.as_modalities({"image": x.value["image"]}), task.query)
    with pytest.raises(ValueError, match=r"\['audio', 'image'\], the query set \['image'\]"):
        learner("prototypes")[0](EMPTY, task._replace(query=lacking), KEY)
