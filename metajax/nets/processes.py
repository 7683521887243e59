"""Neural processes: nets that read examples of a function and predict its values elsewhere.

Each has two methods: `read(x, y, weight)` makes a context of the examples, and
`predict(x, context)` gives a `Gaussian` for each new input. Rows of weight 0 have no influence, and
neither has the order of the rows. Without any example they predict from an empty context.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from metajax._checked import checked
from metajax.nets.attention import Attention, Block
from metajax.nets.perceptrons import MLP
from metajax.types import Array, Gaussian, PyTree, Size


@checked
class ConditionalProcess(nnx.Module):
    """A conditional neural process (CNP): the context is the mean of the encoded examples.

    r = Σᵢ wᵢ h(xᵢ, yᵢ) / Σᵢ wᵢ, and (mean, s) = g(r, x) with the deviation
    least + (1 - least) softplus(s).

    Args:
        inputs: numbers in x.
        outputs: numbers in y.
        width: of all layers.
        least_deviation: lower bound of the predicted standard deviation.
        rngs: for the weights.

    >>> net = ConditionalProcess(1, 1, width=8, rngs=nnx.Rngs(0))
    >>> context = net.read(jnp.ones((5, 1)), jnp.ones((5, 1)), jnp.ones(5))
    >>> net.predict(jnp.ones((3, 1)), context).mean.shape
    (3, 1)

    Source: Garnelo et al. 2018, arXiv 1807.01613; the bound of the deviation as in the authors'
    code, github.com/google-deepmind/neural-processes.
    """

    def __init__(
        self,
        inputs: Size,
        outputs: Size,
        *,
        width: Size = 128,
        least_deviation: float = 0.1,
        rngs: nnx.Rngs,
    ):
        self.encoder = MLP(inputs + outputs, (width, width, width), width, rngs=rngs)
        self.decoder = MLP(inputs + width, (width, width), 2 * outputs, rngs=rngs)
        self.least_deviation = least_deviation

    def read(self, x: Array, y: Array, weight: Array) -> Array:
        """The context [width] of examples x [n, inputs], y [n, outputs] with weights [n]."""
        encoded = self.encoder(jnp.concatenate([x, y], axis=1))
        total = weight.sum()
        return weight.astype(encoded.dtype) @ encoded / jnp.where(total > 0, total, 1)

    def predict(self, x: Array, context: Array) -> Gaussian:
        """Predictions [n, outputs] for inputs [n, inputs]."""
        everywhere = jnp.broadcast_to(context, (len(x), *context.shape))
        return gaussian_of(
            self.decoder(jnp.concatenate([x, everywhere], axis=1)), self.least_deviation
        )


@checked
class AttentiveProcess(nnx.Module):
    """An attentive neural process (ANP) without a latent: each input attends to the examples.

    Keys and queries are features of x. The values are the encoded examples after self-attention.

    Args:
        inputs: numbers in x.
        outputs: numbers in y.
        width: of all layers.
        heads: number of heads of attention; divides `width`.
        least_deviation: lower bound of the predicted standard deviation.
        rngs: for the weights.

    Source: the deterministic path of Kim et al. 2019, arXiv 1901.05761.
    """

    def __init__(
        self,
        inputs: Size,
        outputs: Size,
        *,
        width: Size = 128,
        heads: Size = 8,
        least_deviation: float = 0.1,
        rngs: nnx.Rngs,
    ):
        self.encoder = MLP(inputs + outputs, (width, width), width, rngs=rngs)
        self.among = Attention(width, heads, rngs=rngs)
        self.places = MLP(inputs, (width,), width, rngs=rngs)
        self.across = Attention(width, heads, rngs=rngs)
        self.decoder = MLP(inputs + width, (width, width), 2 * outputs, rngs=rngs)
        self.least_deviation = least_deviation

    def read(self, x: Array, y: Array, weight: Array) -> PyTree:
        """The places and values of examples x [n, inputs], y [n, outputs], and which are valid."""
        valid = weight > 0
        values = self.encoder(jnp.concatenate([x, y], axis=1))[None]
        values += self.among(values, values, valid[None])
        return {"places": self.places(x), "values": values[0], "valid": valid}

    def predict(self, x: Array, context: PyTree) -> Gaussian:
        """Predictions [n, outputs] for inputs [n, inputs]."""
        places, values, valid = (context[name][None] for name in ("places", "values", "valid"))
        found = self.across(self.places(x)[None], places, valid, values)[0]
        return gaussian_of(self.decoder(jnp.concatenate([x, found], axis=1)), self.least_deviation)


@checked
class TransformerProcess(nnx.Module):
    """A transformer neural process (TNP-D): examples and inputs are tokens that read the examples.

    An example is the token (x, y), an input the token (x, 0). In every layer both attend to the
    tokens of the examples, so that predictions do not depend on each other. The layers normalise
    before attention, with a hidden layer of four times the width; those of the authors' code
    normalise after it, with twice the width.

    Args:
        inputs: numbers in x.
        outputs: numbers in y.
        width: of the tokens.
        layers: number of layers.
        heads: number of heads of attention; divides `width`.
        least_deviation: lower bound of the predicted standard deviation.
        rngs: for the weights.

    Source: Nguyen and Grover 2022, arXiv 2207.04179, section 3.1; width, layers, heads and the
    bound of the deviation as in the authors' code, github.com/tung-nd/TNP-pytorch.
    """

    def __init__(
        self,
        inputs: Size,
        outputs: Size,
        *,
        width: Size = 64,
        layers: Size = 6,
        heads: Size = 4,
        least_deviation: float = 0.05,
        rngs: nnx.Rngs,
    ):
        self.embedder = MLP(inputs + outputs, (width, width, width), width, rngs=rngs)
        self.blocks = nnx.List([Block(width, heads, rngs=rngs) for _ in range(layers)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.predictor = MLP(width, (2 * width,), 2 * outputs, rngs=rngs)
        self.outputs = outputs
        self.least_deviation = least_deviation

    def read(self, x: Array, y: Array, weight: Array) -> PyTree:
        """What each layer reads of examples x [n, inputs], y [n, outputs], and which are valid."""
        valid = weight > 0
        tokens = self.embedder(jnp.concatenate([x, y], axis=1))[None]
        layers = []
        for block in self.blocks:
            layers.append(tokens[0])
            tokens = block(tokens, valid[None])
        return {"tokens": jnp.stack(layers), "valid": valid}

    def predict(self, x: Array, context: PyTree) -> Gaussian:
        """Predictions [n, outputs] for inputs [n, inputs]."""
        unknown = jnp.zeros((len(x), self.outputs), x.dtype)
        tokens = self.embedder(jnp.concatenate([x, unknown], axis=1))[None]
        for block, known in zip(self.blocks, context["tokens"], strict=True):
            tokens = block(tokens, context["valid"][None], known[None])
        return gaussian_of(self.predictor(self.norm(tokens[0])), self.least_deviation)


def gaussian_of(raw: Array, least_deviation: float) -> Gaussian:
    """The `Gaussian` of numbers [n, 2 outputs]: means, and deviations before a softplus."""
    mean, spread = jnp.split(raw, 2, axis=-1)
    deviation = least_deviation + (1 - least_deviation) * jax.nn.softplus(spread)
    return Gaussian(mean, deviation**2)
