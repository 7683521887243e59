import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from encoders import draw, quick
from flax import nnx
from problems import assert_close

import metajax as mj
from metajax import nets

WAYS, WIDTH = 3, 4
RNG = np.random.default_rng(0)
STROKES = mj.Series(jnp.asarray(RNG.normal(size=(4, 6, 3))), jnp.array([6, 3, 5, 2]))
WAVES = jnp.asarray(RNG.normal(size=(4, 5)))
PRESENT = {
    "stroke": jnp.array([True, True, False, False]),
    "audio": jnp.array([True, False, True, False]),
}
X = mj.Modalities({"stroke": STROKES, "audio": WAVES}, PRESENT)
SPOILED = X._replace(
    value={
        "stroke": STROKES._replace(value=STROKES.value.at[2:].set(jnp.nan)),
        "audio": WAVES.at[1].set(jnp.nan).at[3].set(9.0),
    }
)


def make_encoders(rngs):
    stroke = nets.TemporalConv(3, WIDTH, width=4, blocks=1, rngs=rngs)
    return {"stroke": stroke, "audio": nets.MLP(5, (6,), WIDTH, rngs=rngs)}


def make_mean(rngs):
    return nets.Multimodal(make_encoders(rngs), nets.fusion.mean, WIDTH, WAYS, rngs=rngs)


def make_tokens(rngs):
    fusion = nets.fusion.Bottleneck(
        sorted(PRESENT), WIDTH, layers=1, fusion_layer=0, heads=1, rngs=rngs
    )
    return nets.Multimodal(make_encoders(rngs), fusion, WIDTH, WAYS, rngs=rngs)


def make_late(rngs):
    fusion = nets.fusion.Late(sorted(PRESENT), WIDTH, WAYS, rngs=rngs)
    return nets.Multimodal(make_encoders(rngs), fusion, WIDTH)


@pytest.mark.parametrize("make", [make_mean, make_tokens, make_late])
def test_absent_values_reach_no_output_gradient_or_statistic(make):
    apply, params = draw(make)

    def loss(params, x):
        output = apply(params, x)
        return jnp.sin(output).sum(), output

    run = quick(jax.value_and_grad(loss, has_aux=True))
    clean = run(params, X)
    assert clean[0][1].shape == (4, WAYS)
    assert_close(run(params, SPOILED), clean, 0)
    gradient = clean[1].fast["encoders"]
    assert np.any(gradient["stroke"]["head"]["kernel"])
    assert np.any(gradient["audio"]["head"]["kernel"])


@pytest.mark.parametrize("make", [make_mean, make_late])
def test_the_output_is_decided_from_what_was_encoded(make):
    apply, params = draw(make)

    def both(params):
        encoded = mj.Modalities(apply(params, X, method="encode"), X.present)
        return apply(params, encoded, method="decide"), apply(params, X)

    assert_close(*quick(both)(params), 1e-6)


def test_weights_and_fused_features():
    apply, params = draw(make_mean)

    def run(params):
        names = ("encode", "embed", "weigh", "__call__")
        return [apply(params, X, method=name) for name in names]

    encoded, fused, weights, output = quick(run)(params)
    assert weights["stroke"].tolist() == [0.5, 1.0, 0.0, 0.0]
    assert weights["audio"].tolist() == [0.5, 0.0, 1.0, 0.0]
    assert_close(fused[0], (encoded["stroke"][0] + encoded["audio"][0]) / 2)
    assert_close(fused[3], jnp.zeros(WIDTH))
    head = params.fast["head"]
    assert_close(output, fused @ head["kernel"] + head["bias"][None])


def test_statistics_are_over_rows_of_the_reference_that_have_the_modality():
    apply, params = draw(make_mean)
    run = quick(apply)
    reference = jnp.array([True, False, True, False])
    moved = X._replace(
        value={**X.value, "stroke": STROKES._replace(value=STROKES.value.at[1].add(3.0))}
    )
    first = run(params, X, reference=reference)
    assert_close(run(params, moved, reference=reference)[0], first[0])
    assert not np.allclose(run(params, moved)[0], run(params, X)[0])


def test_what_does_not_fit_is_refused():
    encoders = {"image": nets.MLP(5, (6,), 8, rngs=nnx.Rngs(1))}
    make = functools.partial(nets.Multimodal, encoders, nets.fusion.mean, 8)
    net = make(2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"encoders for \['image'\], got \['imgae'\]"):
        net(mj.data.as_modalities({"imgae": jnp.ones((2, 5))}))
    with pytest.raises(ValueError, match=r"must be a metajax.Modalities, got float64\[2, 5\]"):
        net(jnp.ones((2, 5)))
    with pytest.raises(ValueError, match=r"outputs and rngs .* got outputs=None"):
        make()
    late = nets.fusion.Late(["image"], 8, 2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"outputs and rngs .* got outputs=2"):
        nets.Multimodal(encoders, late, 8, 2, rngs=nnx.Rngs(0))
