"""Several modalities of the same examples, and the scale of their values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax as mj
from metajax.data.values import as_modalities, as_scale, is_row_numbers, scaled


def several():
    value = {"image": np.ones((6, 4, 4, 1), np.uint8), "audio": np.ones((6, 8), np.int16)}
    return value, {"audio": np.arange(6) % 3 > 0}


def test_a_modality_without_mask_is_present():
    value, present = several()
    made = as_modalities(value, present)
    assert isinstance(made, mj.Modalities) and made.value == value
    assert made.present["image"].all() and made.present["audio"] is present["audio"]
    assert made.present["image"].shape == (6,) and "image" not in present


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value, present: value.clear(), "same number of examples"),
        (lambda value, present: value.update(audio=()), "same number of examples"),
        (lambda value, present: value.update(audio=value["audio"][:3]), "same number of examples"),
        (
            lambda value, present: present.update(adio=present["audio"]),
            r"\['adio'\] are not among the modalities, which are \['audio', 'image'\]",
        ),
        (
            lambda value, present: present.update(audio=present["audio"][:3]),
            r"bool\[6\].*got bool\[3\]",
        ),
        (lambda value, present: present.update(audio=np.ones(6)), r"bool\[6\].*got float64\[6\]"),
    ],
)
def test_errors_of_modalities(change, message):
    value, present = several()
    change(value, present)
    with pytest.raises(ValueError, match=message):
        as_modalities(value, present)


def test_a_scale_is_hashable_and_checked():
    assert as_scale(None) is None and as_scale(np.int64(255)) == 255.0
    pairs = as_scale({"b": 2, "a": 1.5})
    assert pairs == (("a", 1.5), ("b", 2.0)) and as_scale(pairs) == pairs
    with pytest.raises(ValueError, match="scale must be positive"):
        as_scale({"a": 0})


def test_values_are_scaled_by_name_and_lengths_stay():
    wave = mj.Series(jnp.full((6, 8, 1), 16384, jnp.int16), jnp.arange(6, dtype=jnp.int32))
    x = as_modalities({"wave": wave, "tokens": jnp.ones((6, 3), jnp.int32)})
    new = scaled(x, (("wave", 32768.0),))
    np.testing.assert_array_equal(new.value["wave"].value, np.full((6, 8, 1), 0.5))
    assert new.value["wave"].value.dtype == jnp.float32
    np.testing.assert_array_equal(new.value["wave"].length, np.arange(6))
    assert new.value["tokens"] is x.value["tokens"] and new.present is x.present
    tree = {"a": np.array([255], np.uint8), "b": np.array([51], np.uint8)}
    new = scaled(tree, 255.0)
    assert new["a"].dtype == np.float32 and new["b"][0] == np.float32(0.2)
    assert scaled(tree, None) is tree


def test_row_numbers_are_one_integer_for_each_example():
    assert is_row_numbers(np.arange(3)) and is_row_numbers(jnp.arange(3, dtype=jnp.int32))
    for x in (np.arange(3.0), np.ones((3, 1), int), {"a": np.arange(3)}):
        assert not is_row_numbers(x)
    assert not is_row_numbers(jax.ShapeDtypeStruct((3,), jnp.int32))
