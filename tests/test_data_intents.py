"""Utterances and their intents, on a small file made here."""

import gzip
import json

import numpy as np
import pytest

from metajax.data.sets.intents import INTENT_NAMES, clinc150, clinc150_texts
from metajax.data.texts import train_tokenizer


@pytest.fixture
def intents(tmp_path, monkeypatch):
    """Writes one utterance of each intent, or the given training utterances."""
    monkeypatch.setenv("METAJAX_DATA", str(tmp_path))

    def write(train=None):
        rows = [[f"i want {intent.replace('_', ' ')}", intent] for intent in INTENT_NAMES]
        content = {
            "train": train or rows,
            "val": rows[::-1],
            "test": rows,
            "oos_test": [["eat", "oos"]],
        }
        with gzip.open(tmp_path / "clinc150.json.gz", "wt") as file:
            json.dump(content, file)

    write()
    return write


def test_intents_share_one_vocabulary(intents):
    train, val = clinc150("train", length=20), clinc150("val", length=20)
    assert train.names[:1] == ("banking/account_blocked",) and train.classes == 150
    domains = [name.partition("/")[0] for name in train.names]
    assert len(set(domains)) == 10
    assert {domains.count(domain) for domain in domains} == {15}
    np.testing.assert_array_equal(train.x, val.x)  # sorted by class, the same texts
    assert train.scale is None
    own = clinc150("train", tokenizer=train_tokenizer(["i want"], size=10), length=40)
    assert (np.asarray(own.x) == 1).any(), "letters that it does not know"
    assert clinc150_texts("oos_test") == (["eat"], ["oos"])


def test_bad_intents_are_refused(intents, tmp_path):
    with pytest.raises(ValueError, match="split='oos_test' must be one of"):
        clinc150("oos_test")
    with pytest.raises(ValueError, match="split='dev' must be one of"):
        clinc150_texts("dev")
    with pytest.raises(ValueError, match=r"is damaged .*oos_val"):
        clinc150_texts("oos_val")
    intents([["", "transfer"]])
    with pytest.raises(ValueError, match=r"Texts \[0\] are empty"):
        clinc150("train")
    intents([["hello", "dance"]])
    with pytest.raises(ValueError, match=r"is damaged \(KeyError\('dance'\)"):
        clinc150_texts("train")
    path = tmp_path / "clinc150.json.gz"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match="is damaged"):
        clinc150_texts("train")
