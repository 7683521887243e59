"""The sentence encoder with pretrained weights, and the vectors that it gives."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from metajax._checked import checked
from metajax.data.texts import sentence_tokens, sentences_folder
from metajax.nets.adapters import functional
from metajax.nets.sentences import PostNormBlock, SentenceEncoder
from metajax.types import Size

Saved = dict[str, np.ndarray]


@checked
def pretrained_sentences(outputs: int = 1, *, rngs: nnx.Rngs) -> SentenceEncoder:
    """The sentence encoder with the weights of all-MiniLM-L6-v2, read from an installed package.

    It has 22.6 million weights, six layers and width 384. It was trained to find which of two
    English texts belong together, on 1.17 billion pairs. Its licence is Apache-2.0. Where it stays
    frozen, compute the vectors once with `sentence_features`.

    Args:
        outputs: width of the head, which is not pretrained.
        rngs: for the head.

    Raises:
        ImportError: without the package of the weights, or without safetensors.

    Sources: Wang et al. 2020, arXiv 2002.10957;
    https://www.sbert.net/docs/sentence_transformer/pretrained_models.html
    """
    saved = _load(sentences_folder() / "model.safetensors")
    words = saved["embeddings.word_embeddings.weight"]
    places = saved["embeddings.position_embeddings.weight"]
    segments = saved["embeddings.token_type_embeddings.weight"]
    vocabulary, width = words.shape
    net = SentenceEncoder(vocabulary, outputs, width=width, rngs=rngs)
    net.words.set_value(jnp.asarray(words))
    net.places.set_value(jnp.asarray(places + segments[:1]))
    _fill(net.norm, saved, "embeddings.LayerNorm")
    for number, block in enumerate(net.blocks):
        _fill_block(block, saved, f"encoder.layer.{number}")
    return net


@checked
def sentence_features(
    texts: Sequence[str], *, length: int = 254, cut: bool = False, at_once: Size = 64
) -> np.ndarray:
    """The vector of each text by the pretrained sentence encoder.

    Use it where the encoder stays frozen: compute the vectors once and make the data set of them.
    Texts of similar length are computed together, so that little of the work is padding. The
    encoder is compiled inside.

    Args:
        texts: what to encode; `length`, `cut` and the errors are those of `data.sentence_tokens`.
        length: number of pieces of the longest text that is allowed.
        cut: whether longer texts lose their end.
        at_once: texts in one call, which bounds the memory.

    Returns:
        float32[texts, 384], each of length 1.

    Raises:
        ValueError: texts that `data.sentence_tokens` refuses, or `at_once` below 1.
        ImportError: without the package of the weights, or without tokenizers or safetensors.
    """
    tokens = sentence_tokens(texts, length=length, cut=cut)
    apply, params = functional(pretrained_sentences(rngs=nnx.Rngs(0)))
    encode = jax.jit(apply, static_argnames="method")
    width = len(params.fast["norm"]["scale"])
    features = np.zeros((len(tokens), width), np.float32)
    counts = (tokens > 0).sum(axis=1)
    by_length = np.argsort(counts, kind="stable")
    for rows in np.split(by_length, range(at_once, len(by_length), at_once)):
        chunk = np.zeros((at_once, _padded_length(counts[rows].max())), np.int32)
        chunk[: len(rows), : tokens.shape[1]] = tokens[rows, : chunk.shape[1]]
        features[rows] = encode(params, chunk, method="embed")[: len(rows)]
    return features


def _padded_length(longest: int) -> int:
    """The next power of 2, from 8 on, so that few shapes are compiled."""
    return max(8, 1 << int(longest - 1).bit_length())


def _load(path: pathlib.Path) -> Saved:
    """The saved weights by name."""
    try:
        from safetensors.numpy import load_file
    except ImportError as error:
        raise ImportError(
            "Reading the weights needs safetensors: pip install 'metajax[examples]'."
        ) from error
    return load_file(path)


def _fill_block(block: PostNormBlock, saved: Saved, name: str) -> None:
    """Sets the weights of a block to those that were saved under a name."""
    attention = block.attention
    _fill(attention.query, saved, f"{name}.attention.self.query")
    _fill(attention.key, saved, f"{name}.attention.self.key")
    _fill(attention.value, saved, f"{name}.attention.self.value")
    # Attention weights add up to 1, so a bias of the values passes through the softmax unchanged.
    output = f"{name}.attention.output.dense"
    from_values = saved[f"{output}.weight"] @ saved[f"{name}.attention.self.value.bias"]
    bias = {f"{output}.bias": saved[f"{output}.bias"] + from_values}
    _fill(attention.output, saved | bias, output)
    _fill(block.after_attention, saved, f"{name}.attention.output.LayerNorm")
    _fill(block.hidden, saved, f"{name}.intermediate.dense")
    _fill(block.output, saved, f"{name}.output.dense")
    _fill(block.after_hidden, saved, f"{name}.output.LayerNorm")


def _fill(layer: nnx.Linear | nnx.LayerNorm, saved: Mapping[str, np.ndarray], name: str) -> None:
    """Sets the weights of a layer, and its bias if it has one, to those saved under a name."""
    weight = saved[f"{name}.weight"]
    if isinstance(layer, nnx.Linear):
        _set(layer.kernel, weight.T)  # saved as [outputs, inputs]
    else:
        _set(layer.scale, weight)
    if layer.bias is not None:
        _set(layer.bias, saved[f"{name}.bias"])


def _set(variable: Any, value: np.ndarray) -> None:
    variable.set_value(jnp.asarray(value))
