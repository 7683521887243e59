"""Sentences as vectors: a transformer as BERT is, and the weights of one that was trained on a billion pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from metajax.data.texts import sentence_tokens, sentences_folder
from metajax.nets.adapters import functional
from metajax.nets.attention import Attention, TokenEncoder, clear, pool
from metajax.types import Array


class PostNormBlock(nnx.Module):
    """One layer of BERT: attention, then two linear layers, each added to its input and normalised after.

    x ← LN(x + Attention(x)),  x ← LN(x + W₂·gelu(W₁·x)).

    The attention is `Attention`, with a bias where it makes a difference: on the queries and after the output. BERT
    has one on the keys, which cancels in the softmax, and one on the values, which is a bias after the output.

    Args:
        width: of the tokens; the hidden layer is four times as wide.
        heads: divides `width`.
        rngs: for the weights.

    Source: Vaswani et al. 2017, arXiv 1706.03762.
    """

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        self.attention = Attention(width, heads, rngs=rngs)
        self.attention.query = nnx.Linear(width, width, rngs=rngs)
        self.attention.output = nnx.Linear(width, width, rngs=rngs)
        self.after_attention = nnx.LayerNorm(width, epsilon=1e-12, rngs=rngs)
        self.hidden = nnx.Linear(width, 4 * width, rngs=rngs)
        self.output = nnx.Linear(4 * width, width, rngs=rngs)
        self.after_hidden = nnx.LayerNorm(width, epsilon=1e-12, rngs=rngs)

    def __call__(self, tokens: Array, valid: Array) -> Array:
        """[n, t, width] and bool[n, t], which of them have a meaning -> [n, t, width]."""
        tokens = self.after_attention(tokens + self.attention(tokens, tokens, valid))
        return self.after_hidden(
            tokens + self.output(jax.nn.gelu(self.hidden(tokens), approximate=False))
        )


class SentenceEncoder(TokenEncoder):
    """BERT, and the mean of its tokens, of length 1: close in direction means close in meaning.

    f = m / |m|,  m = the mean over the tokens of a text of the last layer's. `embed` gives f, `__call__` a linear head
    on it. How far a text is padded changes nothing. Of the published net the pooling layer is left out, which sentences
    do not use, and the embedding of the first segment is added to that of the places.

    Args:
        vocabulary: number of token ids, with 0, the padding at the end of a text. An id too large gives NaN.
        outputs: width of the head.
        width: of the tokens and of a sentence.
        layers: number of blocks.
        heads: divides `width`.
        longest: tokens of the longest text.
        rngs: for the weights.

    Sources: BERT, Devlin et al. 2018, arXiv 1810.04805; the mean of tokens, Reimers and Gurevych 2019, arXiv
    1908.10084.

    >>> net = SentenceEncoder(100, 5, width=8, layers=1, heads=2, longest=16, rngs=nnx.Rngs(0))
    >>> net(jnp.array([[7, 3, 9, 0, 0], [2, 0, 0, 0, 0]])).shape
    (2, 5)
    """

    def __init__(
        self,
        vocabulary: int,
        outputs: int,
        *,
        width: int = 384,
        layers: int = 6,
        heads: int = 12,
        longest: int = 512,
        rngs: nnx.Rngs,
    ):
        small = nnx.initializers.normal(0.02)
        self.words = nnx.Param(small(rngs.params(), (vocabulary, width)))
        self.places = nnx.Param(small(rngs.params(), (longest, width)))
        self.norm = nnx.LayerNorm(width, epsilon=1e-12, rngs=rngs)
        self.blocks = nnx.List([PostNormBlock(width, heads, rngs=rngs) for _ in range(layers)])
        self.head = nnx.Linear(width, outputs, rngs=rngs)

    def features(self, x: Array, reference: Array | None = None) -> tuple[Array, Array]:
        """int[n, t], zeros at the end -> (tokens [n, t, width], bool[n, t]: which of them have a meaning).

        Raises:
            ValueError: ids that are not integers, or longer than `longest`.
        """
        if x.ndim != 2 or not jnp.issubdtype(x.dtype, jnp.integer):
            raise ValueError(
                f"Text must be token ids int[n, t], got {x.dtype}{list(x.shape)}; number the words first."
            )
        if x.shape[1] > len(self.places[...]):
            raise ValueError(
                f"Texts of {x.shape[1]} tokens are longer than longest={len(self.places[...])}; cut them."
            )
        valid = x != 0
        tokens = (
            clear(jnp.take(self.words[...], x, axis=0), valid)
            + self.places[...][None, : x.shape[1]]
        )
        tokens = self.norm(tokens)
        for block in self.blocks:
            tokens = block(tokens, valid)
        return clear(tokens, valid), valid

    def embed(self, x: Array, reference: Array | None = None) -> Array:
        """int[n, t] -> [n, width], of length 1; zero for a text without tokens."""
        mean = pool(*self.features(x))
        wide = mean.astype(jnp.promote_types(mean.dtype, jnp.float32))  # float16 knows no 1e-12
        return (
            wide * jax.lax.rsqrt(jnp.maximum((wide**2).sum(axis=1, keepdims=True), 1e-12))
        ).astype(mean.dtype)


def pretrained_sentences(outputs: int = 1, *, rngs: nnx.Rngs) -> SentenceEncoder:
    """The encoder with the weights of all-MiniLM-L6-v2: 22.6 million, six layers, 384 wide. Reads an installed package.

    Args:
        outputs: width of the head, which is not pretrained.
        rngs: for the head.

    Raises:
        ImportError: the package with the weights, or safetensors, is missing.

    Trained to tell which of two texts belong together, on 1.17 billion pairs of English ones; Apache-2.0. Sources: Wang
    et al. 2020, arXiv 2002.10957; https://www.sbert.net/docs/sentence_transformer/pretrained_models.html
    """
    folder = sentences_folder()
    try:
        from safetensors.numpy import load_file
    except ImportError as error:
        raise ImportError(
            "Reading the weights needs safetensors: pip install 'metajax[examples]'."
        ) from error
    saved: dict[str, np.ndarray] = load_file(folder / "model.safetensors")
    vocabulary, width = saved["embeddings.word_embeddings.weight"].shape
    net = SentenceEncoder(vocabulary, outputs, width=width, rngs=rngs)
    places, segments = (
        saved[f"embeddings.{kind}_embeddings.weight"] for kind in ("position", "token_type")
    )
    net.words.set_value(jnp.asarray(saved["embeddings.word_embeddings.weight"]))
    net.places.set_value(jnp.asarray(places + segments[:1]))
    _fill(net.norm, saved, "embeddings.LayerNorm")
    for number, block in enumerate(net.blocks):
        layer = f"encoder.layer.{number}"
        for name in ("query", "key", "value"):
            _fill(getattr(block.attention, name), saved, f"{layer}.attention.self.{name}")
        # The bias on the values passes through the softmax unchanged, for its weights add up to 1.
        output, values = (
            f"{layer}.attention.output.dense",
            saved[f"{layer}.attention.self.value.bias"],
        )
        saved[f"{output}.bias"] = saved[f"{output}.bias"] + saved[f"{output}.weight"] @ values
        _fill(block.attention.output, saved, output)
        _fill(block.after_attention, saved, f"{layer}.attention.output.LayerNorm")
        _fill(block.hidden, saved, f"{layer}.intermediate.dense")
        _fill(block.output, saved, f"{layer}.output.dense")
        _fill(block.after_hidden, saved, f"{layer}.output.LayerNorm")
    return net


def sentence_features(
    texts: Sequence[str], *, length: int = 254, cut: bool = False, at_once: int = 64
) -> np.ndarray:
    """Every text as a vector of the pretrained encoder, float32[texts, 384], of length 1.

    What is frozen need be computed only once: make the data set of these vectors. Texts of like length go together, so
    that little of the work is padding; this one jits, for there is nothing to trace around it.

    Args:
        texts: as in `data.sentence_tokens`, and so are `length`, `cut` and the errors.
        length: pieces of the longest text allowed.
        cut: whether longer texts lose their end.
        at_once: texts in one call, which bounds the memory.

    Raises:
        ValueError: as `data.sentence_tokens`, or `at_once` below 1.
        ImportError: the package, or tokenizers, is missing.
    """
    if at_once < 1:
        raise ValueError(f"{at_once=} must be 1 or more.")
    tokens = sentence_tokens(texts, length=length, cut=cut)
    apply, params = functional(pretrained_sentences(rngs=nnx.Rngs(0)))
    encode = jax.jit(apply, static_argnames="method")
    count = (tokens > 0).sum(axis=1)
    order = np.argsort(count, kind="stable")
    features = np.zeros((len(tokens), len(params.fast["norm"]["scale"])), np.float32)
    for rows in np.split(order, range(at_once, len(order), at_once)):
        wide = max(
            8, 1 << int(count[rows].max() - 1).bit_length()
        )  # a power of 2: few shapes to compile for
        chunk = np.zeros((at_once, wide), np.int32)
        chunk[: len(rows), : tokens.shape[1]] = tokens[rows, :wide]
        features[rows] = encode(params, chunk, method="embed")[: len(rows)]
    return features


def _fill(layer: nnx.Linear | nnx.LayerNorm, saved: Mapping[str, np.ndarray], name: str) -> None:
    """Gives a layer the weights saved under a name; those of a linear layer were saved as [outputs, inputs]."""
    weight = saved[f"{name}.weight"]
    given = {"kernel": weight.T} if isinstance(layer, nnx.Linear) else {"scale": weight}
    for own, value in (given | {"bias": saved[f"{name}.bias"]}).items():
        if (variable := getattr(layer, own)) is not None:
            variable.set_value(jnp.asarray(value))
