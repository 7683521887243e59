"""One table of encoders x properties, then what is particular to each."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from problems import assert_close

from metajax import nets
from metajax.nets.attention import Attention, Block, Transformer, pool, positions
from metajax.nets.audio import Audio, log_mel
from metajax.nets.graph import GCN
from metajax.nets.image import ResNet12, ViT
from metajax.nets.sequence import GRU, SequenceTransformer, TemporalConv, windows
from metajax.nets.sets import DeepSets
from metajax.nets.text import Text
from metajax.nets.video import Video
from metajax.types import Series

RNG = np.random.default_rng(0)
OUTPUTS = 3
SERIES = Series(jnp.asarray(RNG.normal(size=(3, 6, 2))), jnp.array([6, 3, 0]))
SPEECH = Series(jnp.asarray(RNG.normal(size=(3, 64, 1))), jnp.array([64, 40, 30]))
VIDEO = Series(jnp.asarray(RNG.normal(size=(2, 3, 4, 4, 1))), jnp.array([3, 1]))
TEXT = jnp.array([[5, 1, 2, 3], [4, 6, 0, 0], [0, 0, 0, 0]])
IMAGES = jnp.asarray(RNG.normal(size=(2, 8, 8, 2)))
EDGES = np.array([[0, 1], [1, 2], [3, 1], [1, 3]])


class Row(NamedTuple):
    make: object  # rngs -> module
    x: object
    mean: bool = True  # whether the mean of the tokens is the answer


PLAIN = {"width": 4, "blocks": 1, "norm": nets.NoNorm}
ENCODERS = {
    "gru": Row(lambda rngs: GRU(2, OUTPUTS, width=4, rngs=rngs), SERIES, mean=False),
    "convolution": Row(lambda rngs: TemporalConv(2, OUTPUTS, width=4, blocks=2, rngs=rngs), SERIES),
    "convolution_group": Row(
        lambda rngs: TemporalConv(
            2, OUTPUTS, width=16, blocks=1, stride=1, norm=nets.GroupNorm, rngs=rngs
        ),
        SERIES,
    ),
    "transformer": Row(
        lambda rngs: SequenceTransformer(2, OUTPUTS, width=4, layers=1, heads=2, rngs=rngs), SERIES
    ),
    "text": Row(
        lambda rngs: Text(7, TemporalConv(2, OUTPUTS, **PLAIN, rngs=rngs), rngs=rngs), TEXT
    ),
    "audio": Row(
        lambda rngs: Audio(TemporalConv(4, OUTPUTS, **PLAIN, rngs=rngs), rate=1000), SPEECH
    ),
    "video": Row(
        lambda rngs: Video(
            ViT(4, channels=1, patch=2, width=4, layers=0, rngs=rngs),
            TemporalConv(4, OUTPUTS, **PLAIN, rngs=rngs),
        ),
        VIDEO,
    ),
    "resnet": Row(lambda rngs: ResNet12(OUTPUTS, channels=2, widths=(3,), rngs=rngs), IMAGES),
    "vit": Row(
        lambda rngs: ViT(OUTPUTS, channels=2, patch=4, width=4, layers=0, rngs=rngs), IMAGES
    ),
    "graph": Row(
        lambda rngs: GCN(EDGES, 2, (4,), OUTPUTS, nodes=5, rngs=rngs), SERIES.value[0, :5]
    ),
    "set": Row(lambda rngs: DeepSets(2, OUTPUTS, width=4, rngs=rngs), SERIES, mean=False),
}
TABLE = pytest.mark.parametrize("name", ENCODERS)


def draw(make):
    """A module as a function, and two sets of weights for it that need no compiling."""
    rng, found = np.random.default_rng(0), []

    def init():
        apply, params = nets.functional(make(nnx.Rngs(0)))
        found.append(apply)
        return params

    shapes = jax.eval_shape(init)
    normal = lambda leaf: jnp.asarray(
        rng.normal(size=leaf.shape) / np.sqrt(max(np.prod(leaf.shape[:-1]), 2))
    )
    return found[0], [jax.tree.map(normal, shapes) for _ in range(2)]


def quick(function, **options):
    """Compiled in a hurry: what takes the time here is compiling, not running."""
    hurry = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(function, compiler_options=hurry, **options)


class Judged(NamedTuple):
    """The same for several weights at once: every leaf has them as its leading axis."""

    answer: object
    gradient: object
    slope: object  # the derivative of the gradient along `way`
    tokens: object = None
    valid: object = None


@functools.cache
def judge(name):
    """(apply, params, clean, spoiled): at weights, a little to both sides of them along a way, and at others."""
    apply, (params, others) = draw(ENCODERS[name].make)
    x = ENCODERS[name].x
    way = jax.tree.map(lambda leaf: jnp.asarray(RNG.normal(size=leaf.shape)), params)

    def loss(params, x):
        answer = apply(params, x)
        return ((answer - jnp.arange(OUTPUTS)[None]) ** 2).mean(), answer

    def along(params, x):
        gradient, answer = jax.grad(loss, has_aux=True)(params, x)
        return sum(jax.tree.leaves(jax.tree.map(lambda g, w: (g * w).sum(), gradient, way))), (
            answer,
            gradient,
        )

    def one(params, x):
        slope, (answer, gradient) = jax.grad(along, has_aux=True)(params, x)
        return Judged(
            answer, gradient, slope, *(() if name == "graph" else apply(params, x, method="tokens"))
        )

    sides = [jax.tree.map(lambda p, w, s=s: p + s * w, params, way) for s in (STEP, -STEP)]
    several = jax.tree.map(lambda *leaves: jnp.stack(leaves), params, *sides, others)
    function = quick(jax.vmap(one, (0, None)))
    return (
        quick(apply, static_argnames="method"),
        (params, others),
        function(several, x),
        function(*spoil(several, x)),
    )


STEP = 1e-6


def spoil(params, x):
    """Not a number wherever the contract says that nothing has a meaning."""
    if isinstance(x, Series):
        past = np.arange(x.value.shape[1])[None] >= np.asarray(x.length)[:, None]
        return params, x._replace(value=x.value.at[past].set(jnp.nan))
    if x is TEXT:
        fast = params.fast | {"embedding": params.fast["embedding"].at[..., 0, :].set(jnp.nan)}
        return params._replace(fast=fast), x
    return params, x


def lengthen(x):
    """The same with more padding."""
    if isinstance(x, Series):
        more = [(0, 0), (0, 3)] + [(0, 0)] * (x.value.ndim - 2)
        return x._replace(value=jnp.pad(x.value, more, constant_values=jnp.nan))
    return jnp.pad(x, [(0, 0), (0, 3)]) if x is TEXT else x


@TABLE
def test_shapes_and_dtypes(name):
    apply, (params, _) = draw(ENCODERS[name].make)
    rows = jax.tree.leaves(ENCODERS[name].x)[0].shape[0]
    for dtype in (jnp.float32, jnp.float64):
        cast = lambda leaf, dtype=dtype: (
            leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
        )
        narrow, x = jax.tree.map(cast, (params, ENCODERS[name].x))
        answer, features = (
            jax.eval_shape(functools.partial(apply, method=method), narrow, x)
            for method in ("__call__", "embed")
        )
        assert (answer.shape, answer.dtype, features.dtype) == ((rows, OUTPUTS), dtype, dtype)
        if name != "graph":
            tokens, valid = jax.eval_shape(functools.partial(apply, method="tokens"), narrow, x)
            assert (tokens.shape, tokens.dtype) == ((*valid.shape, OUTPUTS), dtype)
            assert (len(valid.shape), valid.shape[0], valid.dtype) == (2, rows, bool)
        head = {"kernel": jnp.zeros((features.shape[1], 5), dtype), "bias": jnp.zeros(5, dtype)}
        written = narrow._replace(fast=narrow.fast | {"head": head})  # as `prototypes` writes it
        assert jax.eval_shape(apply, written, x).shape == (rows, 5)
        assert jax.tree.structure(written) == jax.tree.structure(narrow)


@TABLE
def test_every_parameter_learns_and_the_second_order_is_right(name):
    _, _, clean, _ = judge(name)
    for path, leaf in jax.tree_util.tree_leaves_with_path((clean.gradient, clean.slope)):
        assert (leaf[0] != 0).any(), jax.tree_util.keystr(path)
    difference = jax.tree.map(lambda leaf: (leaf[1] - leaf[2]) / (2 * STEP), clean.gradient)
    assert_close(jax.tree.map(lambda leaf: leaf[0], clean.slope), difference, 1e-5)


@TABLE
def test_what_has_no_meaning_changes_nothing(name):
    _, _, clean, spoiled = judge(name)
    assert_close(spoiled[:3], clean[:3])
    if clean.tokens is not None:
        here = clean.valid
        assert_close(spoiled.tokens[here], clean.tokens[here])


@TABLE
def test_weights_mapped_are_a_loop_however_far_x_is_padded(name):
    apply, params, clean, _ = judge(name)
    for which, weights in zip((0, 3), params, strict=True):
        assert_close(apply(weights, lengthen(ENCODERS[name].x)), clean.answer[which])


@pytest.mark.parametrize(
    "name", [name for name, row in ENCODERS.items() if row.mean and name != "graph"]
)
def test_the_mean_of_the_tokens_is_the_answer(name):
    _, _, clean, _ = judge(name)
    some = clean.valid[0].any(1)
    assert_close(pool(clean.tokens[0], clean.valid[0])[some], clean.answer[0][some])


def test_tokens_of_the_others():
    _, _, clean, _ = judge("gru")
    assert_close(clean.tokens[0][jnp.arange(2), SERIES.length[:2] - 1], clean.answer[0][:2])
    apply, (params, _), clean, _ = judge("set")
    assert_close(clean.tokens[0][0], apply(params, SERIES.value[0][:, None]))
    apply, (params, _) = draw(lambda rngs: nets.Conv4(OUTPUTS, channels=2, width=4, rngs=rngs))
    (tokens, valid), answer = quick(
        lambda: (apply(params, IMAGES, method="tokens"), apply(params, IMAGES))
    )()
    assert_close(pool(tokens, valid), answer)
    with pytest.raises(ValueError, match="take pool=False"):
        jax.eval_shape(
            lambda: nets.Conv4(3, pool=True, rngs=nnx.Rngs(0)).tokens(jnp.zeros((1, 28, 28, 1)))
        )


@pytest.mark.parametrize("name", ["gru", "set", "graph"])
def test_eager_is_compiled(name):
    apply, (params, _) = draw(ENCODERS[name].make)
    assert_close(apply(params, ENCODERS[name].x), judge(name)[2].answer[0])


@pytest.mark.parametrize("name", ["gru", "transformer", "convolution_group", "set"])
def test_a_series_is_read_as_the_array_of_its_length(name):
    apply, (params, _), clean, _ = judge(name)
    assert_close(apply(params, SERIES.value[1:2, :3]), clean.answer[0][1:2])


def test_a_recording_is_read_as_the_array_of_its_length():
    apply, (params, _), clean, _ = judge("audio")
    assert_close(apply(params, SPEECH.value[1:2, :40, 0]), clean.answer[0][1:2])
    louder = apply(params, SPEECH.value[:, :, 0] * 100)
    np.testing.assert_allclose(louder, apply(params, SPEECH.value[:, :, 0]), atol=1e-3)


def test_attention_is_softmax_in_numpy():
    attention = Attention(4, 2, rngs=nnx.Rngs(0))
    queries, tokens = RNG.normal(size=(2, 3, 4)), RNG.normal(size=(2, 5, 4))
    valid = np.array([[True, False, True, True, False], [False] * 5])
    kernel = {
        name: np.asarray(getattr(attention, name).kernel[...])
        for name in ("query", "key", "value", "output")
    }
    expected = np.zeros((2, 3, 4))
    for head in (slice(0, 2), slice(2, 4)):
        for query in range(3):
            q, read = (queries[0, query] @ kernel["query"])[head], tokens[0, valid[0]]
            weight = np.exp((read @ kernel["key"])[:, head] @ q / np.sqrt(2))
            expected[0, query, head] = weight / weight.sum() @ (read @ kernel["value"])[:, head]
    spoiled = np.where(valid[..., None], tokens, np.nan)
    answer = attention(jnp.asarray(queries), jnp.asarray(spoiled), jnp.asarray(valid))
    np.testing.assert_allclose(answer, expected @ kernel["output"], rtol=1e-6, atol=1e-7)
    everything = attention(jnp.asarray(queries), jnp.asarray(tokens), jnp.ones((2, 5), bool))
    np.testing.assert_allclose(
        attention(jnp.asarray(queries), jnp.asarray(tokens)), everything, rtol=1e-12
    )
    with pytest.raises(ValueError, match="heads=3 must divide width=4"):
        Attention(4, 3, rngs=nnx.Rngs(0))


def test_tokens_without_a_meaning_stay_out_of_a_transformer_and_its_gradients():
    apply, (params, _) = draw(lambda rngs: Block(4, 2, rngs=rngs))
    tokens, context = (
        jnp.asarray(RNG.normal(size=(2, 3, 4))),
        jnp.asarray(RNG.normal(size=(2, 5, 4))),
    )
    valid = jnp.array([[True, True, False, False, True], [False] * 5])
    value = lambda params, tokens, context: apply(params, tokens, valid=valid, context=context)
    gradient = quick(jax.grad(lambda *args: (value(*args) ** 2).sum(), argnums=(0, 1, 2)))
    spoiled = jnp.where(valid[..., None], context, jnp.nan)
    assert_close(gradient(params, tokens, spoiled), gradient(params, tokens, context))
    alone = quick(apply)(params, tokens[:1], context=context[:1, jnp.array([0, 1, 4])])
    assert_close(quick(value)(params, tokens, context)[:1], alone)


def test_a_transformer_knows_order_by_positions_only():
    apply, (params, _) = draw(lambda rngs: Transformer(4, 1, 2, rngs=rngs))
    transformer = functools.partial(quick(apply), params)
    tokens, order = jnp.asarray(RNG.normal(size=(2, 5, 4))), jnp.array([3, 1, 4, 0, 2])
    assert_close(transformer(tokens)[:, order], transformer(tokens[:, order]))
    np.testing.assert_allclose(
        positions(50, 6)[7], [f(7 / 10000 ** (i / 3)) for i in range(3) for f in (np.sin, np.cos)]
    )
    apply, (params, _), *_ = judge("transformer")
    assert not np.allclose(apply(params, SERIES.value[:, ::-1]), apply(params, SERIES.value))


def test_a_set_has_no_order():
    apply, (params, _), *_ = judge("set")
    order = jnp.array([2, 0, 1, 3, 4, 5])
    assert_close(
        apply(params, SERIES._replace(value=SERIES.value[:, order]))[:2], apply(params, SERIES)[:2]
    )


def test_gru_is_flax_s():
    apply, (params, _), *_ = judge("gru")

    def flax(params, x):
        cell = nnx.GRUCell(2, 4, rngs=nnx.Rngs(1))
        cell.dense_i.kernel.set_value(params["input"]["kernel"])
        cell.dense_i.bias.set_value(params["input"]["bias"])
        cell.dense_h.kernel.set_value(params["state"]["kernel"])
        state = jnp.zeros((len(x), 4))
        for step in range(x.shape[1]):
            state, _ = cell(state, x[:, step])
        return state @ params["head"]["kernel"] + params["head"]["bias"][None]

    assert_close(
        apply(params, SERIES.value[1:2, :3]), quick(flax)(params.fast, SERIES.value[1:2, :3])
    )


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_windows_times_matrix_is_convolution(stride):
    kernel = jnp.asarray(RNG.normal(size=(3, 2, 4)))
    expected = jax.lax.conv_general_dilated(
        SERIES.value, kernel, (stride,), [(1, 1)], dimension_numbers=("NTC", "TIO", "NTC")
    )
    np.testing.assert_allclose(
        windows(SERIES.value, stride) @ kernel.reshape(6, 4), expected, rtol=1e-9
    )


def test_statistics_are_of_the_reference_and_count_what_has_a_meaning():
    filming = lambda rngs: Video(
        ResNet12(4, channels=1, widths=(3,), rngs=rngs),
        TemporalConv(4, OUTPUTS, width=4, blocks=1, rngs=rngs),
    )
    for make, x in ((ENCODERS["convolution"].make, SERIES), (filming, VIDEO)):
        plain, (params, _) = draw(make)
        apply = quick(plain)
        moved = x._replace(value=x.value.at[1].add(RNG.normal(size=x.value.shape[1:])))
        reference = jnp.arange(len(x.length)) < 1
        one, other = (apply(params, data, reference=reference)[0] for data in (x, moved))
        assert_close(one, other)
        assert_close(one, apply(params, x.value[:1])[0])
        one, other = (apply(params, data)[0] for data in (x, moved))
        assert not np.allclose(one, other)
        assert_close(one, apply(params, lengthen(x))[0])


def test_resnet_has_the_size_that_is_published():
    shapes = jax.eval_shape(lambda: nets.functional(ResNet12(64, rngs=nnx.Rngs(0)))[1])
    convolutions = sum(
        9 * a * b + 18 * b * b + a * b for a, b in [(3, 64), (64, 160), (160, 320), (320, 640)]
    )
    norms = 4 * 2 * (64 + 160 + 320 + 640)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == convolutions + norms + 641 * 64


def test_vit_tells_places_apart_and_a_token_is_a_patch():
    apply, (params, _), clean, _ = judge(
        "vit"
    )  # without blocks, so that tokens do not read each other
    for axis in (1, 2):  # the same patches elsewhere
        assert not np.allclose(apply(params, jnp.roll(IMAGES, 4, axis)), clean.answer[0])
    tokens, _ = apply(params, IMAGES.at[:, 3, 4].add(1.0), method="tokens")
    assert (tokens != clean.tokens[0]).any(-1).tolist() == [[False, True, False, False]] * 2


def test_log_mel_is_numpy_s():
    rate, wave = 2000, RNG.normal(size=(2, 300))
    mel = lambda hertz: 2595 * np.log10(1 + hertz / 700)
    edges = np.linspace(0, mel(rate / 2), 12)
    expected = np.zeros((2, 13, 10))
    for frame in range(13):
        piece = np.zeros((2, 64))
        piece[:, :50] = wave[:, 20 * frame : 20 * frame + 50] * np.hanning(51)[:-1]
        for place in range(33):
            turn = np.exp(-2j * np.pi * place * np.arange(64) / 64)
            power = np.abs(piece @ turn) ** 2
            for band in range(10):
                weight = np.interp(mel(place * rate / 64), edges[band : band + 3], [0, 1, 0])
                expected[:, frame, band] += weight * power
    np.testing.assert_allclose(
        log_mel(jnp.asarray(wave), rate=rate, mels=10), np.log(expected + 1e-6), rtol=1e-9
    )


@pytest.mark.parametrize("band", [3, 20, 39])
def test_a_pure_tone_is_loudest_in_its_band(band):
    hertz = 700 * (
        10 ** ((band + 1) * 2595 * np.log10(1 + 4000 / 700) / 41 / 2595) - 1
    )  # the centre of the band
    mel = quick(log_mel, static_argnames="rate")(
        jnp.sin(2 * jnp.pi * hertz * jnp.arange(2000) / 8000)[None], rate=8000
    )
    assert (mel.argmax(-1) == band).all()


def test_gcn_is_dense_algebra():
    apply, (params, _), *_ = judge("graph")
    adjacency = np.eye(5)
    for a, b in EDGES:
        adjacency[a, b] = adjacency[b, a] = 1
    root = np.diag(adjacency.sum(1) ** -0.5)
    spread, x = root @ adjacency @ root, np.asarray(SERIES.value[0, :5])
    layer, head = (
        jax.tree.map(np.asarray, p) for p in (params.fast["layers"][0], params.fast["head"])
    )
    hidden = np.maximum(spread @ x @ layer["kernel"] + layer["bias"], 0)
    np.testing.assert_allclose(
        apply(params, x), spread @ hidden @ head["kernel"] + head["bias"], rtol=1e-6
    )


def test_an_unknown_word_is_loud():
    apply, (params, _), *_ = judge("text")
    assert jnp.isnan(apply(params, TEXT.at[0, 0].set(7))).any(1).tolist() == [True, False, False]


WAVE = jnp.zeros((1, 100))
REFUSED = {
    "takes .n, t, 2., got .3, 6, 1.": lambda: GRU(2, 3, rngs=nnx.Rngs(0))(SERIES.value[..., :1]),
    "must be token ids": lambda: Text(7, GRU(2, 3, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0))(
        jnp.zeros((2, 3))
    ),
    "rate=0 Hz": lambda: log_mel(WAVE, rate=0),
    "is longer than the wave of 100": lambda: log_mel(WAVE, rate=8000),
    "mels=40 some lie between": lambda: log_mel(WAVE, rate=1000),
    "image gives 4 features": lambda: Video(
        nets.Conv4(4, rngs=nnx.Rngs(0)), GRU(2, 3, rngs=nnx.Rngs(0))
    ),
    "too small for 4 poolings": lambda: ResNet12(3, widths=(2,) * 4, rngs=nnx.Rngs(0))(
        jnp.zeros((1, 8, 8, 3))
    ),
    "patch=3 does not divide images of 8 x 8": lambda: ViT(
        3, channels=2, patch=3, rngs=nnx.Rngs(0)
    )(IMAGES),
    r"lead out of the nodes=3": lambda: GCN(EDGES, 2, (), 3, nodes=3, rngs=nnx.Rngs(0)),
    "Edges must be int": lambda: GCN(EDGES.T, 2, (), 3, nodes=5, rngs=nnx.Rngs(0)),
    "The graph has 5 nodes": lambda: GCN(EDGES, 2, (), 3, nodes=5, rngs=nnx.Rngs(0))(
        jnp.zeros((4, 2))
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_does_not_fit_is_refused(message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(REFUSED[message])
