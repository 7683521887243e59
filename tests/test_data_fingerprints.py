"""Hashes of data sets."""

import dataclasses

import numpy as np

from metajax.data.datasets import dataset
from metajax.data.tasks.fingerprints import fingerprint

IMAGE = np.random.default_rng(0).integers(0, 255, (8, 2)).astype(np.uint8)


def test_data_sets_have_different_fingerprints():
    variants = [
        dataset(IMAGE, np.arange(8)),
        dataset(IMAGE.astype(np.int16), np.arange(8)),
        dataset(IMAGE.reshape(8, 1, 2), np.arange(8)),
        dataset(IMAGE, np.arange(8) // 2),
        dataset(IMAGE, np.arange(8), info=IMAGE),
        dataset(IMAGE, np.arange(8), names=list("abcdefgh")),
        dataset(IMAGE + 1, np.arange(8)),
    ]
    assert len({fingerprint(one) for one in variants}) == len(variants)


def test_equal_data_sets_have_the_same_fingerprint_whatever_their_scale():
    source = dataset(IMAGE, np.arange(8), scale=255)
    assert fingerprint(source) == fingerprint(dataset(IMAGE, np.arange(8), scale=255))
    assert fingerprint(source) == fingerprint(dataclasses.replace(source, scale=None))
    known = "c7d325c64716"
    assert len(fingerprint(source)) == 64 and fingerprint(source)[:12] == known
