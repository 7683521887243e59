"""One table of encoders, times the properties that all of them must have."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from encoders import (
    EDGES,
    IMAGES,
    NODES,
    OUTPUTS,
    RNG,
    SERIES,
    SPEECH,
    TEXT,
    VIDEO,
    draw,
    lengthen,
    quick,
)
from flax import nnx
from problems import assert_close

from metajax import nets
from metajax.nets.tokens import FrontEnd, keep_valid, pool_tokens, read_series
from metajax.types import Series


class Row(NamedTuple):
    make: object  # rngs -> module
    x: object
    mean: bool = True  # whether the mean of the tokens is the output


def make_convolution_group(rngs):
    norm = {"stride": 1, "norm": nets.GroupNorm}
    return nets.TemporalConv(2, OUTPUTS, width=16, blocks=1, **norm, rngs=rngs)


def make_transformer(rngs):
    return nets.SequenceTransformer(2, OUTPUTS, width=4, layers=1, heads=2, rngs=rngs)


def make_text(rngs):
    return nets.Text(7, plain_convolution(2, rngs), rngs=rngs)


def make_audio(rngs):
    return nets.Audio(plain_convolution(4, rngs), rate=1000)


def make_video(rngs):
    image = nets.ViT(4, channels=1, patch=2, width=4, layers=0, rngs=rngs)
    return nets.Video(image, plain_convolution(4, rngs))


def make_vit(rngs):
    return nets.ViT(OUTPUTS, channels=2, patch=4, width=4, layers=0, rngs=rngs)


def plain_convolution(inputs, rngs):
    return nets.TemporalConv(inputs, OUTPUTS, width=4, blocks=1, norm=nets.NoNorm, rngs=rngs)


ENCODERS = {
    "gru": Row(lambda rngs: nets.GRU(2, OUTPUTS, width=4, rngs=rngs), SERIES, mean=False),
    "convolution": Row(
        lambda rngs: nets.TemporalConv(2, OUTPUTS, width=4, blocks=2, rngs=rngs), SERIES
    ),
    "convolution_group": Row(make_convolution_group, SERIES),
    "transformer": Row(make_transformer, SERIES),
    "text": Row(make_text, TEXT),
    "audio": Row(make_audio, SPEECH),
    "video": Row(make_video, VIDEO),
    "resnet": Row(lambda rngs: nets.ResNet12(OUTPUTS, channels=2, widths=(3,), rngs=rngs), IMAGES),
    "vit": Row(make_vit, IMAGES),
    "graph": Row(lambda rngs: nets.GCN(EDGES, 2, (4,), OUTPUTS, nodes=5, rngs=rngs), NODES),
    "set": Row(lambda rngs: nets.DeepSets(2, OUTPUTS, width=4, rngs=rngs), SERIES, mean=False),
}
TOKENS = [name for name in ENCODERS if name != "graph"]
STEP = 1e-6


def table(names):
    """The tests of one encoder run in one process, so that it is compiled once."""
    marks = {name: pytest.mark.xdist_group(f"encoder {name}") for name in names}
    return pytest.mark.parametrize("name", [pytest.param(n, marks=marks[n]) for n in names])


class Measured(NamedTuple):
    """The same for several weights at once: every leaf has them as its leading axis."""

    output: object
    gradient: object
    slope: object  # the derivative of the gradient along `way`
    tokens: object = None
    valid: object = None


@functools.cache
def measure(name):
    """(apply, params, clean, spoiled).

    Measured at weights, a little to both sides of them along a way, and at other weights.
    """
    apply, params, others = draw(ENCODERS[name].make, 2)
    x = ENCODERS[name].x
    way = jax.tree.map(lambda leaf: jnp.asarray(RNG.normal(size=leaf.shape)), params)

    def loss(params, x):
        output = apply(params, x)
        return ((output - jnp.arange(OUTPUTS)[None]) ** 2).mean(), output

    def along_way(params, x):
        gradient, output = jax.grad(loss, has_aux=True)(params, x)
        products = jax.tree.map(lambda g, w: (g * w).sum(), gradient, way)
        return sum(jax.tree.leaves(products)), (output, gradient)

    def one(params, x):
        slope, (output, gradient) = jax.grad(along_way, has_aux=True)(params, x)
        tokens = apply(params, x, method="tokens") if name in TOKENS else ()
        return Measured(output, gradient, slope, *tokens)

    ahead = jax.tree.map(lambda p, w: p + STEP * w, params, way)
    behind = jax.tree.map(lambda p, w: p - STEP * w, params, way)
    several = jax.tree.map(lambda *leaves: jnp.stack(leaves), params, ahead, behind, others)
    function = quick(jax.vmap(one, (0, None)))
    clean = function(several, x)
    spoiled = function(*spoil(several, x))
    return quick(apply, static_argnames="method"), (params, others), clean, spoiled


def spoil(params, x):
    """NaN wherever the contract says that values are ignored."""
    if isinstance(x, Series):
        past = np.arange(x.value.shape[1])[None] >= np.asarray(x.length)[:, None]
        return params, x._replace(value=x.value.at[past].set(jnp.nan))
    if x is TEXT:
        fast = params.fast | {"embedding": params.fast["embedding"].at[..., 0, :].set(jnp.nan)}
        return params._replace(fast=fast), x
    return params, x


@table(ENCODERS)
def test_shapes_and_dtypes(name):
    apply, params = draw(ENCODERS[name].make)
    rows = jax.tree.leaves(ENCODERS[name].x)[0].shape[0]
    for dtype in (jnp.float32, jnp.float64):

        def cast(leaf, dtype=dtype):
            is_float = jnp.issubdtype(leaf.dtype, jnp.floating)
            return leaf.astype(dtype) if is_float else leaf

        narrow, x = jax.tree.map(cast, (params, ENCODERS[name].x))
        output = jax.eval_shape(apply, narrow, x)
        features = jax.eval_shape(functools.partial(apply, method="embed"), narrow, x)
        assert (output.shape, output.dtype) == ((rows, OUTPUTS), dtype)
        assert features.dtype == dtype
        if name in TOKENS:
            tokens, valid = jax.eval_shape(functools.partial(apply, method="tokens"), narrow, x)
            assert (tokens.shape, tokens.dtype) == ((*valid.shape, OUTPUTS), dtype)
            assert (len(valid.shape), valid.shape[0], valid.dtype) == (2, rows, bool)
        head = {"kernel": jnp.zeros((features.shape[1], 5), dtype), "bias": jnp.zeros(5, dtype)}
        written = narrow._replace(fast=narrow.fast | {"head": head})  # as `prototypes` writes it
        assert jax.eval_shape(apply, written, x).shape == (rows, 5)
        assert jax.tree.structure(written) == jax.tree.structure(narrow)


@table(ENCODERS)
def test_every_parameter_learns_and_the_second_order_is_right(name):
    _, _, clean, _ = measure(name)
    for path, leaf in jax.tree_util.tree_leaves_with_path((clean.gradient, clean.slope)):
        assert (leaf[0] != 0).any(), jax.tree_util.keystr(path)
    difference = jax.tree.map(lambda leaf: (leaf[1] - leaf[2]) / (2 * STEP), clean.gradient)
    assert_close(jax.tree.map(lambda leaf: leaf[0], clean.slope), difference, 1e-5)


@table(ENCODERS)
def test_padding_changes_nothing(name):
    _, _, clean, spoiled = measure(name)
    assert_close(spoiled[:3], clean[:3])
    if clean.tokens is not None:
        assert_close(spoiled.tokens[clean.valid], clean.tokens[clean.valid])


@table(ENCODERS)
def test_weights_mapped_are_a_loop_however_far_x_is_padded(name):
    apply, params, clean, _ = measure(name)
    for which, weights in zip((0, 3), params, strict=True):
        assert_close(apply(weights, lengthen(ENCODERS[name].x)), clean.output[which])


@table([name for name in TOKENS if ENCODERS[name].mean])
def test_the_mean_of_the_tokens_is_the_output(name):
    _, _, clean, _ = measure(name)
    some = clean.valid[0].any(1)
    assert_close(pool_tokens(clean.tokens[0], clean.valid[0])[some], clean.output[0][some])


@table(["gru"])
def test_the_last_valid_token_of_a_gru_is_the_output(name):
    _, _, clean, _ = measure(name)
    last = SERIES.length[:2] - 1
    assert_close(clean.tokens[0][jnp.arange(2), last], clean.output[0][:2])


@table(["set"])
def test_a_token_of_a_set_is_the_output_for_that_item(name):
    apply, (params, _), clean, _ = measure(name)
    assert_close(clean.tokens[0][0], apply(params, SERIES.value[0][:, None]))


@table(["gru", "transformer", "convolution_group", "set"])
def test_a_series_is_read_as_the_array_of_its_length(name):
    apply, (params, _), clean, _ = measure(name)
    assert_close(apply(params, SERIES.value[1:2, :3]), clean.output[0][1:2])


@table(["audio"])
def test_a_recording_is_read_as_the_array_of_its_length(name):
    apply, (params, _), clean, _ = measure(name)
    assert_close(apply(params, SPEECH.value[1:2, :40, 0]), clean.output[0][1:2])
    louder = apply(params, SPEECH.value[:, :, 0] * 100)
    np.testing.assert_allclose(louder, apply(params, SPEECH.value[:, :, 0]), atol=1e-3)


@table(["transformer"])
def test_the_order_of_a_series_counts(name):
    apply, (params, _), *_ = measure(name)
    assert not np.allclose(apply(params, SERIES.value[:, ::-1]), apply(params, SERIES.value))


@table(["set"])
def test_the_order_of_a_set_does_not_count(name):
    apply, (params, _), *_ = measure(name)
    order = jnp.array([2, 0, 1, 3, 4, 5])
    shuffled = SERIES._replace(value=SERIES.value[:, order])
    assert_close(apply(params, shuffled)[:2], apply(params, SERIES)[:2])


@table(["vit"])
def test_vit_distinguishes_places_and_a_token_is_a_patch(name):
    apply, (params, _), clean, _ = measure(name)  # without blocks, so no token reads another
    for axis in (1, 2):  # the same patches elsewhere
        assert not np.allclose(apply(params, jnp.roll(IMAGES, 4, axis)), clean.output[0])
    tokens, _ = apply(params, IMAGES.at[:, 3, 4].add(1.0), method="tokens")
    assert (tokens != clean.tokens[0]).any(-1).tolist() == [[False, True, False, False]] * 2


@table(["text"])
def test_an_id_out_of_range_gives_nan(name):
    apply, (params, _), *_ = measure(name)
    output = apply(params, TEXT.at[0, 0].set(7))
    assert jnp.isnan(output).any(1).tolist() == [True, False, False]


@table(["graph"])
def test_gcn_is_dense_algebra(name):
    apply, (params, _), *_ = measure(name)
    adjacency = np.eye(5)
    for a, b in EDGES:
        adjacency[a, b] = adjacency[b, a] = 1
    root = np.diag(adjacency.sum(1) ** -0.5)
    spread = root @ adjacency @ root
    layer, head = jax.tree.map(np.asarray, (params.fast["layers"][0], params.fast["head"]))
    hidden = np.maximum(spread @ np.asarray(NODES) @ layer["kernel"] + layer["bias"], 0)
    expected = spread @ hidden @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(apply(params, NODES), expected, rtol=1e-6)


@table(["gru"])
def test_gru_is_flax_s(name):
    apply, (params, _), *_ = measure(name)

    def flax(params, x):
        cell = nnx.GRUCell(2, 4, rngs=nnx.Rngs(1))
        cell.dense_i.kernel.set_value(params["input"]["kernel"])
        cell.dense_i.bias.set_value(params["input"]["bias"])
        cell.dense_h.kernel.set_value(params["state"]["kernel"])
        state = jnp.zeros((len(x), 4))
        for step in range(x.shape[1]):
            state, _ = cell(state, x[:, step])
        return state @ params["head"]["kernel"] + params["head"]["bias"][None]

    x = SERIES.value[1:2, :3]
    assert_close(apply(params, x), quick(flax)(params.fast, x))


def test_masked_values_are_zero_and_do_not_count():
    tokens = jnp.array([[[1.0], [jnp.nan]], [[jnp.nan], [jnp.nan]]])
    valid = jnp.array([[True, False], [False, False]])
    assert keep_valid(tokens, valid)[..., 0].tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert pool_tokens(tokens, valid).tolist() == [[1.0], [0.0]]
    assert keep_valid(tokens) is tokens
    np.testing.assert_allclose(pool_tokens(tokens[:1, :1]), [[1.0]])
    value, valid = read_series(Series(tokens[:1], jnp.array([1])), 1)
    assert value[..., 0].tolist() == [[1.0, 0.0]] and valid.tolist() == [[True, False]]


def test_a_series_of_other_channels_is_refused():
    with pytest.raises(ValueError, match=r"takes \[n, t, 2\], got \[3, 6, 1\]; make it with"):
        read_series(SERIES.value[..., :1], 2)
    with pytest.raises(ValueError, match=r"takes \[n, t, 2\], got \[3, 6\]"):
        read_series(SERIES.value[..., 0], 2)
    with pytest.raises(ValueError, match=r"takes \[n, t, 2\], got \[3, 6, 1\]"):
        jax.eval_shape(lambda: nets.GRU(2, 3, rngs=nnx.Rngs(0))(SERIES.value[..., :1]))


def test_a_base_class_says_what_to_define():
    with pytest.raises(NotImplementedError, match="TokenEncoder must define features"):
        nets.TokenEncoder().embed(TEXT)
    sequence = nets.GRU(2, 3, width=2, rngs=nnx.Rngs(0))
    with pytest.raises(NotImplementedError, match="FrontEnd must define series"):
        FrontEnd(sequence).embed(TEXT)
