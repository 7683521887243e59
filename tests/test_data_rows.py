"""Rows that were read from files, put together."""

import numpy as np
import pytest

from metajax.data.read.rows import all_present, fill_gaps, kept_dataset


def test_all_present_needs_no_device():
    both = all_present({"a": np.ones((2, 3, 4)), "b": [np.ones((2, 3))]}, (2, 3))
    assert both.present["b"].shape == (2, 3) and both.present["a"].all()
    assert type(both.present["a"]) is np.ndarray
    assert all_present({"a": np.ones((2, 4))}, 2).present["a"].tolist() == [True, True]


def test_gaps_are_zero():
    present = np.array([True, False, True])
    filled = fill_gaps("words", np.array([[1, 2], [3, 4]], np.int16), present)
    assert filled.tolist() == [[1, 2], [0, 0], [3, 4]] and filled.dtype == np.int16
    with pytest.raises(ValueError, match=r"each of the 2 values in 'words', got shape \(3, 2\)"):
        fill_gaps("words", np.ones((3, 2)), present)


def test_kept_rows_become_a_data_set_in_the_order_of_names():
    kept = np.array([True, True, False, True])
    source = kept_dataset(np.arange(4), ["b", "a", "a", "b"], kept, scale=2)
    assert source.names == ("a", "b") and source.x.tolist() == [1, 0, 3] and source.scale == 2
    with pytest.raises(ValueError, match=r"No image of the classes \['a'\] can be read"):
        kept_dataset(np.arange(4), ["b", "a", "b", "b"], ~kept | [True, False, True, True], None)
