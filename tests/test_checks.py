"""One check for each kind of bad input."""

import jax.numpy as jnp
import numpy as np
import pytest

import metajax as mj
from metajax import _checks


@pytest.mark.parametrize("value", [1, np.int64(5), np.int8(1), np.uint8(7)])
def test_whole_numbers_pass(value):
    _checks.check_count("steps", value)


@pytest.mark.parametrize("value", [True, False, 0, -1, 1.0, "1", None, np.float64(2), np.True_])
def test_other_values_are_named_with_the_remedy(value):
    with pytest.raises(ValueError, match="steps must be a whole number, 1 or more, got"):
        _checks.check_count("steps", value)


@pytest.mark.parametrize(
    "y", [np.zeros(3), np.zeros((3, 1), int), np.zeros((), int), np.zeros(3, bool)]
)
def test_labels_are_one_integer_for_each_example(y):
    _checks.check_labels(np.zeros(3, np.int16))
    with pytest.raises(ValueError, match=r"Support labels must be int\[examples\], got"):
        _checks.check_labels(y, "Support labels")


def test_names_and_entries():
    _checks.check_names(["image"], ["image", "audio"])
    with pytest.raises(ValueError, match=r"\['video'\] are not among the modalities, which are"):
        _checks.check_names(["image", "video"], {"image": 0, "audio": 0})
    _checks.check_no_modality_missing({"a": 1, "b": 2}, ["a"], "The rule")
    with pytest.raises(ValueError, match=r"entries for \['a'\]; add one for each of \['b'\]"):
        _checks.check_no_modality_missing({"a": 1}, ["a", "b"], "The rule")


def test_rows_are_counted_where_they_are_equal():
    assert _checks.check_rows({"a": jnp.ones((3, 2)), "b": jnp.ones(3)}, "x") == 3
    for tree in ((), jnp.ones(()), jnp.ones((0, 2)), (jnp.ones(2), jnp.ones(3))):
        with pytest.raises(ValueError, match="Every leaf of x must have the same, positive length"):
            _checks.check_rows(tree, "x")


def test_losses_and_entries_of_params():
    assert _checks.check_loss_value((jnp.ones(()), {})) == 1
    for wrong in (jnp.ones(()), (jnp.ones(2), {}), (1.0, {}, 2)):
        with pytest.raises(ValueError, match=r"must return \(scalar, metrics\)"):
            _checks.check_loss_value(wrong)
    with pytest.raises(ValueError, match="must be a dict to write its entry 'head', got tuple"):
        _checks.check_fast_entry(mj.Params((), ()), "head")


def test_a_function_takes_what_it_names():
    assert _checks.takes(lambda params, step=None: 0, "step")
    assert not _checks.takes(lambda params, **options: 0, "step")
