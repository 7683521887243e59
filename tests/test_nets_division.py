import pytest

from metajax import nets
from metajax.types import Params

FAST = {"layers": {0: {"kernel": 1, "bias": 2}}, "head": {"kernel": 3}}
SLOW = {"layers": {1: {"kernel": 4}}, "scale": 5}
ALL = {"layers": {0: {"kernel": 1, "bias": 2}, 1: {"kernel": 4}}, "head": {"kernel": 3}, "scale": 5}


def test_weights_are_joined_however_they_are_divided():
    assert nets.join_params(Params(FAST, SLOW, rule=6)) == ALL
    assert nets.join_params(Params(SLOW, FAST)) == ALL
    assert nets.join_params(Params(ALL, ())) == ALL
    assert nets.join_params(Params({}, ALL)) == ALL


@pytest.mark.parametrize(
    ("is_fast", "fast", "slow"),
    [
        (lambda path: path.startswith("layers/0"), {"layers": {0: {"kernel": 1, "bias": 2}}}, None),
        (lambda path: path in ("head/kernel", "scale"), {"head": {"kernel": 3}, "scale": 5}, None),
        (lambda path: path.endswith("bias"), {"layers": {0: {"bias": 2}}}, None),
        (lambda path: True, ALL, {}),
    ],
)
def test_weights_are_divided_by_their_path(is_fast, fast, slow):
    divided = nets.split_params(Params(FAST, SLOW, rule=6), is_fast)
    assert divided.fast == fast
    assert divided.rule == 6
    assert nets.join_params(divided) == ALL
    if slow is not None:
        assert divided.slow == slow


def test_a_division_without_fast_weights_is_refused():
    with pytest.raises(ValueError, match="makes nothing fast; the net has") as error:
        nets.split_params(Params(FAST, SLOW), lambda path: path == "tail")
    for path in ("layers/0/kernel", "layers/0/bias", "layers/1/kernel", "head/kernel", "scale"):
        assert path in str(error.value)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (Params(FAST, {"head": {"kernel": 9}}), "both have 'head/kernel'; a weight is either"),
        (Params(FAST, {"head": 9}), "both have 'head'"),
        (Params([1.0], {}), r"params.fast must be a nested dict of weights, got list"),
        (Params({}, 1.0), r"params.slow must be a nested dict of weights, got float"),
    ],
)
def test_what_cannot_be_joined_is_refused(params, message):
    with pytest.raises(ValueError, match=message):
        nets.join_params(params)
