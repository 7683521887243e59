"""Layers of fast weights: dual forms equal loops, nothing reads the future, states carry on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import metajax as mj
from metajax import nets
from metajax.nets import FastState, FastWeights

WIDTH, HEADS, CHUNK, LENGTH = 6, 2, 4, 11
RULES = {
    "descent": nets.descent,
    "descent with momentum": functools.partial(nets.descent, momentum=True),
    "orthogonal": nets.orthogonal_descent,
    "orthogonal with momentum": functools.partial(nets.orthogonal_descent, momentum=True),
    "delta": nets.delta_rule,
    "ridge": functools.partial(nets.ridge_rule, 0.5),
}
CASES = [*((name, None) for name in RULES if name != "orthogonal"), ("descent with momentum", 5)]
X = jax.random.normal(jax.random.key(1), (2, LENGTH, WIDTH), jnp.float64)
VALID = jax.random.bernoulli(jax.random.key(2), 0.7, (2, LENGTH))


def make_layer(rule, hidden=None, **options):
    """A layer in float64 whose weights are all away from where they start."""
    options = {"chunk": CHUNK, "decay": None, **options}
    layer = FastWeights(WIDTH, HEADS, rule, hidden=hidden, rngs=nnx.Rngs(0), **options)
    graph, weights = nnx.split(layer)
    leaves, structure = jax.tree.flatten(weights)
    keys = jax.random.split(jax.random.key(3), len(leaves))
    moved = [
        leaf.astype(jnp.float64) + 0.3 * jax.random.normal(key, leaf.shape, jnp.float64)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return nnx.merge(graph, jax.tree.unflatten(structure, moved))


def in_parts(layer, x, valid, lengths):
    state, outputs, begin = layer.initial_state(len(x)), [], 0
    for length in lengths:
        part = slice(begin, begin + length)
        output, state = layer.read_on(x[:, part], state, valid[:, part])
        outputs.append(output)
        begin += length
    return jnp.concatenate(outputs, axis=1), state


@pytest.mark.parametrize(("name", "hidden"), CASES)
def test_the_dual_form_is_the_loop_and_parts_are_the_whole(name, hidden):
    layers = [make_layer(RULES[name](), hidden, dual=dual) for dual in (True, False)]

    @jax.jit
    def run(x, valid):
        dual, loop = (layer(x, valid) for layer in layers)
        parts, state = in_parts(layers[0], x, valid, (1, 5, 2, 3))
        direction = jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)

        def value(weights, x, layer):
            return (direction * nnx.merge(nnx.graphdef(layer), weights)(x, valid)).sum()

        gradients = [
            jax.grad(value, (0, 1))(nnx.state(layer), jnp.where(valid[..., None], x, 0), layer)
            for layer in layers
        ]
        return dual, loop, parts, gradients, state.skipped

    x = jnp.where(VALID[..., None], X, jnp.nan)  # whatever stands where nothing is valid
    dual, loop, parts, gradients, skipped = run(x, VALID)
    np.testing.assert_allclose(dual, loop, atol=1e-12)
    np.testing.assert_allclose(dual, parts, atol=1e-12)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-11), *gradients)
    assert np.abs(dual).max() > 0.1 and not np.any(skipped)


@pytest.mark.parametrize(("name", "hidden"), CASES)
def test_in_single_precision_the_dual_form_is_the_loop_to_a_millionth(name, hidden):
    """Of the largest output, over 64 tokens in chunks of 16."""
    x = jax.random.normal(jax.random.key(4), (2, 64, 32), jnp.float32)
    dual, loop = (
        jax.jit(
            FastWeights(
                32, 2, RULES[name](), hidden=hidden, decay=None, dual=dual, rngs=nnx.Rngs(0)
            )
        )(x)
        for dual in (True, False)
    )
    assert dual.dtype == jnp.float32 and np.abs(loop).max() > 0.1
    np.testing.assert_allclose(dual, loop, rtol=0, atol=1e-6 * np.abs(loop).max())


@pytest.mark.parametrize("name", ["descent with momentum", "orthogonal", "delta", "ridge"])
def test_no_token_reads_a_later_one_or_one_that_is_not_valid(name):
    layer = make_layer(RULES[name]())
    reads = jax.jit(jax.jacobian(lambda x: layer(x, VALID).sum(axis=(0, 2))))(X)
    reads = np.abs(reads).sum(axis=3)  # [output token, sequence, input token]
    assert not np.triu(reads.max(axis=1), 1).any()
    assert not (reads * ~np.asarray(VALID)).any()
    first = reads[:, np.arange(2), np.asarray(VALID).argmax(axis=1)]
    assert (first[-2:].max(axis=0) > 0).all()


def by_hand(layer, x):
    """Queries, keys, values, rates and shares of the first head, [t, ...], in NumPy."""
    size = WIDTH // HEADS
    kernel = lambda part: np.asarray(part.kernel[...])[:, :size]
    unit = lambda rows: rows / np.sqrt((rows**2).sum(axis=1, keepdims=True) + 1e-6)
    logits = lambda one: x @ np.asarray(one.kernel[...]) + np.asarray(one.bias[...])
    gate = lambda one: 1 / (1 + np.exp(-logits(one.linear)[:, 0]))
    query, key = unit(x @ kernel(layer.query)), unit(x @ kernel(layer.key))
    keep = np.ones(len(x)) if layer.decay == 0.0 else 1 - gate(layer.decay)
    return query, key, x @ kernel(layer.value), gate(layer.rate), keep


def beta(name):
    return 0.7 if "momentum" in name else None


def newton_schulz(matrix):
    x = matrix / np.linalg.norm(matrix)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x - 4.775 * square @ x + 2.0315 * square @ square @ x
    return x


def test_the_rules_are_those_of_the_papers():
    """Each written out in NumPy, over two chunks."""
    x = np.asarray(X[0, : 2 * CHUNK])
    seen = {}
    names = ("descent", "descent with momentum", "orthogonal", "delta", "ridge")
    layers = {name: make_layer(RULES[name](), momentum=beta(name)) for name in names}
    for name, layer in layers.items():
        tokens = by_hand(layer, x)
        start = np.asarray(layer.start[0][...][0])
        if name.startswith("descent"):
            weights, base, moved, outputs = start, start, 0, []
            for index, (query, key, value, rate, keep) in enumerate(zip(*tokens, strict=True)):
                base = weights if index % CHUNK == 0 else base
                moved = (beta(name) or 0) * moved + rate * np.outer(base @ key - value, key)
                weights = keep * weights - moved
                outputs.append(weights @ query)
        elif name == "orthogonal":
            weights, outputs = start, []
            for begin in (0, CHUNK):
                query, key, value, rate, keep = (part[begin : begin + CHUNK] for part in tokens)
                outputs += list(query @ weights.T)
                gradient = (rate[:, None] * (key @ weights.T - value)).T @ key
                weights = keep.prod() * weights - rate.sum() * newton_schulz(gradient)
        elif name == "delta":
            weights, outputs = start, []
            for query, key, value, rate, keep in zip(*tokens, strict=True):
                weights = keep * weights
                weights = weights + rate * np.outer(value - weights @ key, key)
                outputs.append(weights @ query)
        else:
            outputs = []
            query, key, value, rate, keep = tokens
            for index in range(len(x)):
                shares = np.ones(index + 1)
                if index >= CHUNK:
                    shares[:CHUNK] = keep[:CHUNK].prod()
                weight = (rate[: index + 1] * shares)[:, None]
                keys, rest = key[: index + 1], value[: index + 1] - key[: index + 1] @ start.T
                square = keys.T @ (weight * keys) + 0.5 * np.eye(len(start))
                solution = start + np.linalg.solve(square, keys.T @ (weight * rest)).T
                outputs.append(solution @ query[index])
        seen[name] = np.stack(outputs)
    for name, layer in layers.items():
        layer.output.kernel[...] = jnp.eye(WIDTH, dtype=jnp.float64)
        found = jax.jit(layer)(jnp.asarray(x)[None])[0, :, : WIDTH // HEADS]
        np.testing.assert_allclose(found, seen[name], atol=1e-12)


def test_a_memory_of_two_layers_descends_its_own_loss():
    """The gradient of each token by `jax.grad`, at the weights of the start of its chunk."""
    layer = make_layer(nets.descent(momentum=True), 5, momentum=0.7)
    x = np.asarray(X[0, : 2 * CHUNK])
    read = lambda weights, at: weights[1] @ jax.nn.gelu(weights[0] @ at)
    loss = lambda weights, key, value: 0.5 * ((read(weights, key) - value) ** 2).sum()
    weights = [matrix[...][0] for matrix in layer.start]
    base, moved, outputs = weights, [0, 0], []
    for index, (query, key, value, rate, keep) in enumerate(zip(*by_hand(layer, x), strict=True)):
        base = weights if index % CHUNK == 0 else base
        gradient = jax.grad(loss)(base, key, value)
        moved = [0.7 * old + rate * one for old, one in zip(moved, gradient, strict=True)]
        weights = [keep * one - move for one, move in zip(weights, moved, strict=True)]
        outputs.append(read(weights, query))
    layer.output.kernel[...] = jnp.eye(WIDTH, dtype=jnp.float64)
    found = jax.jit(layer)(jnp.asarray(x)[None])[0, :, : WIDTH // HEADS]
    np.testing.assert_allclose(found, np.stack(outputs), atol=1e-12)


def test_an_orthogonal_step_is_as_long_as_the_rates_of_its_chunk():
    layer = make_layer(nets.orthogonal_descent(), decay=0.0, rate=0.25)
    _, state = jax.jit(layer.read_on)(X[:, :CHUNK], layer.initial_state(2))
    step = state.memory.weights[0] - layer.start[0][...][None]
    lengths = jnp.linalg.svd(step, compute_uv=False)
    assert ((lengths > 0.25 * CHUNK * 0.6) & (lengths < 0.25 * CHUNK * 1.3)).all()


@pytest.mark.parametrize("name", ["descent with momentum", "ridge"])
def test_mixed_mode_through_the_layer_is_unroll(name):
    apply, params = nets.functional(make_layer(RULES[name]()))
    loss = mj.losses.squared_error(apply)
    x = X[:, : CHUNK + 1]
    task = mj.Task(mj.Batch(x, x[:, ::-1]), mj.Batch(x[::-1], x))

    def gradient(strategy):
        adaptation = mj.inner_loop(loss, optax.sgd(0.1), steps=2, differentiate=strategy)
        value = lambda params: mj.query_loss(adaptation, loss)(params, task, jax.random.key(0))[0]
        return jax.jit(jax.grad(value))(params)

    found, expected = gradient(mj.mixed_mode()), gradient(mj.unroll())
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-11)
    assert optax.tree.norm(expected) > 0.01


def test_first_order_learns_less_than_the_exact_gradient_and_remat_changes_nothing():
    def slope(layer):
        _, weights, rest = nnx.split(layer, nnx.Param, ...)
        graph = nnx.graphdef(layer)
        value = lambda weights: (nnx.merge(graph, weights, rest)(X) ** 2).sum()
        return jax.jit(jax.grad(value))(weights)

    exact = slope(make_layer(nets.descent()))
    again = slope(make_layer(nets.descent(), remat=True))
    first = slope(make_layer(nets.descent(exact=False)))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-12), exact, again)
    assert not np.any(first.key.kernel[...]) and not np.any(first.value.kernel[...])
    assert np.any(exact.key.kernel[...]) and np.any(first.rate.linear.kernel[...])


def test_a_chunk_that_diverges_is_left_out_and_counted():
    layer = make_layer(nets.descent(), decay=0.0, rate=1e300)
    output, state = jax.jit(layer.read_on)(X, layer.initial_state(2))
    assert np.isfinite(output).all()
    assert isinstance(state, FastState) and np.all(state.skipped > 0)
    assert np.isfinite(jax.tree.leaves(state.memory)[0]).all()
    slope = jax.jit(jax.grad(lambda x: (layer(x) ** 2).sum()))(X)
    assert not np.isfinite(slope).all()


def test_a_chunk_that_diverges_in_its_second_part_ends_all_the_same():
    layer = make_layer(nets.descent(), decay=0.0, rate=0.1)
    _, state = layer.read_on(X[:, :2], layer.initial_state(2))
    _, state = layer.read_on(jnp.full((2, 2, WIDTH), jnp.inf), state)
    assert not state.was_read.any() and np.all(state.skipped == 1)
    np.testing.assert_array_equal(state.memory.base[0], state.memory.weights[0])


@pytest.mark.parametrize("hidden", [None, 5])
def test_orthogonal_steps_have_moderate_derivatives_at_the_first_chunk(hidden):
    """The gradient of a hidden layer under a last layer of zeros is zero, and has no direction."""
    rule = nets.orthogonal_descent()
    layer = FastWeights(WIDTH, HEADS, rule, hidden=hidden, chunk=CHUNK, rngs=nnx.Rngs(0))
    graph, weights = nnx.split(layer)
    value = lambda weights: (nnx.merge(graph, weights)(X.astype(jnp.float32)) ** 2).mean()
    gradient = jax.jit(jax.grad(value))(weights)
    assert 0 < optax.tree.norm(gradient) < 10


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", ["descent", "orthogonal", "ridge"])
def test_sixteen_bits_learn_in_thirty_two(name, dtype):
    layer = FastWeights(WIDTH, HEADS, RULES[name](), chunk=CHUNK, decay=0.001, rngs=nnx.Rngs(0))
    graph, weights = nnx.split(layer)
    narrow = nnx.merge(graph, jax.tree.map(lambda leaf: leaf.astype(dtype), weights))
    x = X.astype(dtype)
    output, state = narrow.read_on(
        x, narrow.initial_state(2), jnp.zeros_like(VALID).at[1].set(True)
    )
    assert output.dtype == dtype and not state.skipped.any()
    assert {leaf.dtype for leaf in jax.tree.leaves(state.memory)} == {jnp.dtype(jnp.float32)}
    expected = layer(x.astype(jnp.float32))
    np.testing.assert_allclose(output[1].astype(np.float32), expected[1], atol=0.05)


def test_whole_numbers_and_nothing_are_read():
    layer = make_layer(nets.descent(), decay=0.0, rate=0.1)
    numbers = jnp.round(3 * X).astype(jnp.int32)
    np.testing.assert_allclose(layer(numbers), layer(numbers.astype(jnp.float64)), atol=1e-12)
    assert np.any(layer(numbers))
    state = layer.initial_state(2)
    output, after = layer.read_on(X[:, :0], state)
    assert output.shape == (2, 0, WIDTH)
    jax.tree.map(np.testing.assert_array_equal, after, state)
    assert layer(X[:0]).shape == (0, LENGTH, WIDTH)


def test_wrong_arguments_are_refused():
    make = functools.partial(FastWeights, WIDTH, HEADS, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="heads=4 must divide width=6"):
        FastWeights(WIDTH, 4, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="linear memory only; leave out hidden=8"):
        make(nets.delta_rule(), hidden=8)
    with pytest.raises(ValueError, match=r"momentum=0.5 needs a rule with momentum"):
        make(nets.ridge_rule(), momentum=0.5)
    with pytest.raises(ValueError, match=r"rate=-0.1 must be 0 or more"):
        make(rate=-0.1)
    with pytest.raises(ValueError, match=r"decay=1.0 must be 0 or more and below 1"):
        make(decay=1.0)
    with pytest.raises(ValueError, match=r"first_rate=2.0 must be above 0 and below 1"):
        make(nets.delta_rule()._replace(first_rate=2.0))
    with pytest.raises(ValueError, match="penalty"):
        nets.ridge_rule(0.0)
    layer = make()
    with pytest.raises(ValueError, match="of another layer or of another number of sequences"):
        layer.read_on(X, layer.initial_state(3))
    with pytest.raises(ValueError, match="of another layer"):
        layer.read_on(X, make(nets.ridge_rule()).initial_state(2))
    with pytest.raises(ValueError, match="of another layer"):
        layer.read_on(X, make(chunk=CHUNK).initial_state(2))


def test_a_rule_of_ones_own_is_a_rule():
    """Linear attention: the memory is a sum."""

    def learn(memory, tokens: nets.Tokens):
        stored = tokens.rate[:, None] * tokens.value
        outputs = tokens.query @ memory.T + jnp.tril(tokens.query @ tokens.key.T) @ stored
        return outputs, memory + stored.T @ tokens.key

    rule = nets.FastRule(lambda weights: weights[0], learn, learn, lambda m: m, True, False, 0.5)
    layer = make_layer(rule, decay=0.0)
    layer.output.kernel[...] = jnp.eye(WIDTH, dtype=jnp.float64)
    x = np.asarray(X[0])
    query, key, value, rate, _ = by_hand(layer, x)
    start = np.asarray(layer.start[0][...][0])
    expected = query @ start.T + np.tril(query @ key.T) @ (rate[:, None] * value)
    found = jax.jit(layer)(X[:1])[0, :, : WIDTH // HEADS]
    np.testing.assert_allclose(found, expected, atol=1e-12)
