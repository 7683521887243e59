"""Weights of modalities: computed from the support set, or descended in the inner loop."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from modal_problems import (
    KEY,
    WAYS,
    check_gradients_and_names,
    check_that_absent_values_are_ignored,
    equal,
    make_tasks,
)
from problems import assert_close, first

import metajax as mj
from metajax.modalities import leave_one_out_loss, modal_prototypes, support_weights
from metajax.nets import identity_encoder

both = pytest.mark.parametrize("name", ["computed weights", "descended weights"])


@both
def test_absent_values_are_ignored(name):
    check_that_absent_values_are_ignored(name)


@pytest.mark.parametrize(
    ("name", "written"), [("computed weights", ["modality_weights"]), ("descended weights", [])]
)
def test_every_parameter_receives_gradient_and_names_tell_modalities_apart(name, written):
    check_gradients_and_names(name, written)


@both
def test_a_class_without_support_has_no_influence(name):
    """More ways than there are classes change no weight."""
    task = first(make_tasks(1, 8, missing=0.3))
    written = []
    for ways in (WAYS, WAYS + 2):
        params = mj.Params(equal(), ())
        if name == "computed weights":
            adaptation = support_weights(identity_encoder, ways)
            params = adaptation.init(params, KEY)
            params.rule["out"] = params.rule["out"] + 0.3
        else:
            loss = leave_one_out_loss(identity_encoder, ways)
            adaptation = mj.inner_loop(loss, optax.sgd(0.5), steps=2)
        adapted = jax.jit(adaptation.adapt)(params, task.support, KEY)
        written.append(adapted.fast["modality_weights"])
    assert_close(*written, 1e-6)
    assert max(abs(weight) for weight in written[0].values()) > 1e-3


def test_fast_weights_descend_on_the_leave_one_out_loss():
    task = first(make_tasks(1, 6))
    start = mj.Params(equal(), ())
    loss = leave_one_out_loss(identity_encoder, WAYS)
    descend = mj.inner_loop(loss, optax.sgd(0.1), steps=3)

    @jax.jit
    def run(support):
        moved = descend.adapt(start, support, KEY)
        values = [loss(params, support, KEY)[0] for params in (start, moved)]
        return moved, jnp.stack(values)

    moved, (before, after) = run(task.support)
    assert after < before
    adapted = modal_prototypes(identity_encoder, WAYS).adapt(moved, task.support, KEY)
    assert adapted.fast.keys() == {"modality_weights", "head"}


def test_rows_without_a_label_are_left_out_of_the_leave_one_out_loss():
    x, y = jax.random.normal(KEY, (8, 3)), jnp.array([0, 1, 0, 1, 0, 1, -1, -1])
    loss = leave_one_out_loss(identity_encoder, 2)
    params = mj.Params({"modality_weights": {"image": 0.0}}, {})

    def value(rows, weight=None):
        x_of_rows = mj.data.as_modalities({"image": x[:rows]})
        return loss(params, mj.Batch(x_of_rows, y[:rows], weight), KEY)[0]

    np.testing.assert_allclose(value(8), value(6), rtol=1e-12)
    large = jnp.full(8, 60000, jnp.float16)  # their sum is not a float16
    np.testing.assert_allclose(value(8, large), value(6), rtol=1e-12)


def test_hidden_is_the_width_of_the_network_and_entry_is_what_is_written():
    task = first(make_tasks(1, 6))
    weigh = support_weights(identity_encoder, WAYS, hidden=5, entry="ell")
    params = weigh.init(mj.Params({"ell": {"image": 0.5, "audio": -1.0}}, ()), KEY)
    assert params.rule["in"].shape == (12, 5)
    adapted = jax.jit(weigh.adapt)(params, task.support, KEY)
    assert_close(adapted.fast["ell"], {"image": jnp.array(0.5), "audio": jnp.array(-1.0)}, 1e-6)
    loss = leave_one_out_loss(identity_encoder, WAYS, entry="ell")
    assert np.isfinite(jax.jit(loss)(adapted, task.support, KEY)[0])


def test_errors_say_what_to_do():
    task = first(make_tasks(1, 0))
    weigh = support_weights(identity_encoder, WAYS)
    one = mj.Params({"modality_weights": {"audio": 0.0}}, ())
    with pytest.raises(ValueError, match="ways must be"):
        support_weights(identity_encoder, 0)
    with pytest.raises(ValueError, match="hidden must be"):
        support_weights(identity_encoder, WAYS, hidden=0)
    with pytest.raises(ValueError, match="must name the modalities"):
        weigh.init(mj.Params({}, ()), KEY)
    with pytest.raises(ValueError, match="must be a dict to write its entry 'modality_weights'"):
        weigh.init(mj.Params((), ()), KEY)
    with pytest.raises(ValueError, match="support_weights has no rule yet"):
        weigh.adapt(one, task.support, KEY)
    with pytest.raises(
        ValueError, match=r"rule of support_weights.*add one for each of \['image'\]"
    ):
        weigh.adapt(weigh.init(one, KEY), task.support, KEY)
    plain = task.support._replace(x=jnp.ones((9, 2)))
    with pytest.raises(ValueError, match="x of the batch must be a Modalities"):
        weigh.adapt(weigh.init(one, KEY), plain, KEY)
    loss = leave_one_out_loss(identity_encoder, WAYS)
    with pytest.raises(
        ValueError,
        match=r"params.fast\['modality_weights'\].*add one for each of \['image'\]",
    ):
        loss(one, task.support, KEY)
    with pytest.raises(ValueError, match=r"has entries for \[\]"):
        loss(mj.Params((), ()), task.support, KEY)
    with pytest.raises(ValueError, match="ways must be"):
        leave_one_out_loss(identity_encoder, 0)
