"""Augmented images."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_tasks import augmented_examples as draws
from jax.test_util import check_grads

from metajax.data.augment.geometry import affine
from metajax.data.augment.images import colour, compose, crop, cutout, flip, sometimes

RNG = np.random.default_rng(0)
IMAGE = RNG.uniform(0.35, 0.6, (9, 7, 3)).astype(np.float32)
BYTES = RNG.integers(1, 255, (9, 7, 3)).astype(np.uint8)
STRONG = {
    "crop": crop(3),
    "flip": flip(),
    "affine": affine(degrees=30, translate=0.2, scale=(0.7, 1.3), shear=20),
    "colour": colour(brightness=0.3, contrast=0.3, saturation=0.3),
    "cutout": cutout(4),
    "compose": compose(crop(2), affine(degrees=10), flip()),
    "sometimes": sometimes(affine(degrees=90), 0.5),
}
ANY_DTYPE = ("crop", "flip", "cutout")
NOTHING = {
    "crop": crop(0),
    "flip": sometimes(flip(), 0.0),
    "affine": affine(),
    "colour": colour(),
    "cutout": cutout(0),
    "compose": compose(),
}


@pytest.mark.parametrize("make", [crop, cutout])
@pytest.mark.parametrize(("fill", "dtype"), [(-1, "uint8"), (0.5, "uint8"), (256, "uint8"),
                                             (-129, "int8"), (2, "bool")])  # fmt: skip
def test_a_fill_that_the_dtype_does_not_have_is_refused(make, fill, dtype):
    images = jnp.ones((3, 3, 1), dtype)
    with pytest.raises(ValueError, match=f"fill={fill} is no value of images of {dtype}"):
        make(2, fill=fill)(images, jax.random.key(0))
    allowed = 1 if dtype == "bool" else 100.0
    changed = jnp.zeros_like(images)
    assert (make(2, fill=allowed)(changed, jax.random.key(0)) == allowed).any()
    changed = jnp.zeros_like(images, jnp.float32)
    assert (make(2, fill=-0.5)(changed, jax.random.key(0)) == -0.5).any()


@pytest.mark.parametrize("name", STRONG)
def test_shapes_dtypes_keys_and_vmap(name):
    for dtype in (jnp.float32, jnp.float64, jnp.bfloat16, jnp.uint8):
        if dtype != jnp.uint8 or name in ANY_DTYPE:
            like = jax.ShapeDtypeStruct((9, 7, 3), dtype)
            assert jax.eval_shape(STRONG[name], like, jax.random.key(0)) == like
    many, again = draws(STRONG[name], IMAGE, 20), draws(STRONG[name], IMAGE, 20)
    np.testing.assert_array_equal(many, again)
    assert len(np.unique(many.reshape(20, -1), axis=0)) > (1 if name == "flip" else 5)
    for index, key in enumerate(jax.random.split(jax.random.key(0), 20)[:3]):
        np.testing.assert_allclose(many[index], STRONG[name](jnp.asarray(IMAGE), key), atol=1e-5)


@pytest.mark.parametrize("name", NOTHING)
def test_no_strength_is_the_identity(name):
    for x in (IMAGE, BYTES) if name in ANY_DTYPE else (IMAGE, IMAGE.astype(float)):
        new = draws(NOTHING[name], x, 10)
        assert new.dtype == x.dtype
        np.testing.assert_array_equal(new, np.broadcast_to(x, new.shape))


@pytest.mark.parametrize("name", STRONG)
def test_derivatives_by_the_image(name):
    augment = lambda x: STRONG[name](x, jax.random.key(2))
    check_grads(augment, (IMAGE.astype(float),), order=1, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("x", "fill"), [(IMAGE, 0.0), (BYTES, 7)])
def test_a_crop_is_one_of_the_windows(x, fill):
    new = draws(crop(2, fill=fill), x, 1000)
    padded = np.pad(x, ((2, 2), (2, 2), (0, 0)), constant_values=fill)
    windows = np.stack(
        [padded[r : r + 9, c : c + 7] for r, c in itertools.product(range(5), range(5))]
    )
    same = (new[:, None] == windows[None]).all(axis=(2, 3, 4))
    assert (same.sum(axis=1) == 1).all()
    assert same.sum(axis=0).min() > 20 and same.sum(axis=0).max() < 65  # of 40 expected, σ = 6.2


def test_a_flip_exchanges_left_and_right_half_of_the_time():
    for x in (IMAGE, BYTES):
        new = draws(flip(), x, 1000)
        kept, turned = ((new == y[None]).all(axis=(1, 2, 3)) for y in (x, x[:, ::-1]))
        assert (kept ^ turned).all() and 440 < kept.sum() < 560


def test_sometimes_has_its_probability_and_a_key_of_its_own():
    noise = lambda x, key: x + 1 + jax.random.uniform(key, (), jnp.float32)
    new = draws(sometimes(noise, 0.25), np.zeros(1, np.float32), 2000)
    hit = new > 0
    assert 430 < hit.sum() < 570
    assert 1.45 < new[hit].mean() < 1.55, "the chance and the draw have keys of their own"
    assert (draws(sometimes(noise, 1.0), np.zeros(1, np.float32), 50) > 0).all()


def test_compose_goes_from_first_to_last_with_different_keys():
    double = lambda x, key: 2 * x
    add = lambda x, key: x + jax.random.uniform(key, (), jnp.float32)
    x = np.zeros(1, np.float32)
    once, twice = (draws(compose(*chain), x, 1000) for chain in ((add,), (add, double, add)))
    np.testing.assert_allclose(draws(compose(add, double), x, 1000), 2 * once)
    second = twice - 2 * once
    assert abs(np.corrcoef(once[:, 0], second[:, 0])[0, 1]) < 0.1
    assert second.min() >= 0 and second.max() <= 1


GREY = np.array([0.299, 0.587, 0.114])


def factors(new, x):
    """The b, c and s of an image that was not clipped: s leaves the grey, c and s the mean."""
    old, grey, mean = x @ GREY, new @ GREY, x.mean()
    slope, intercept = np.polyfit(old.reshape(-1), grey.reshape(-1), 1)
    b = (intercept + slope * mean) / mean
    hue, new_hue = (x - old[..., None]).reshape(-1), (new - grey[..., None]).reshape(-1)
    return b, slope / b, new_hue @ hue / (hue @ hue) / slope


def test_colour_is_that_of_a_loop_and_its_factors_are_uniform():
    x = IMAGE.astype(float)
    new = draws(colour(brightness=0.1, contrast=0.3, saturation=0.5), x, 300)
    found = np.array([factors(image, x) for image in new])
    for image, (b, c, s) in zip(new[:20], found, strict=False):
        expected = np.empty_like(x)
        mean = np.mean([b * value for value in x.reshape(-1)])
        for row, column in np.ndindex(9, 7):
            pixel = [mean + c * (b * value - mean) for value in x[row, column]]
            grey = 0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]
            expected[row, column] = [grey + s * (value - grey) for value in pixel]
        np.testing.assert_allclose(image, expected, atol=1e-6)
    part = (found - 1) / np.array([0.1, 0.3, 0.5])
    assert np.abs(part).max() < 1 + 1e-4
    assert (np.abs(part.mean(axis=0)) < 0.12).all() and (
        np.abs(part.std(axis=0) - 3**-0.5) < 0.06
    ).all()
    assert np.abs(np.corrcoef(part.T) - np.eye(3)).max() < 0.2


@pytest.mark.parametrize(
    ("option", "index"), [("brightness", 0), ("contrast", 1), ("saturation", 2)]
)
def test_each_option_of_colour_moves_its_own_factor(option, index):
    x = IMAGE.astype(float)
    found = np.array([factors(new, x) for new in draws(colour(**{option: 0.2}), x, 30)])
    np.testing.assert_allclose(np.delete(found, index, axis=1), 1, atol=1e-6)
    assert np.ptp(found[:, index]) > 0.25


def test_colour_stays_in_its_range_and_takes_one_channel():
    grey = np.linspace(0, 1, 20, dtype=np.float32).reshape(4, 5, 1)
    new = draws(colour(brightness=1.0, contrast=1.0), grey, 50)
    assert new.min() == 0 and new.max() == 1


@pytest.mark.parametrize(("size", "x"), [(1, IMAGE), (3, BYTES), (4, IMAGE), (7, IMAGE)])
def test_cutout_is_a_square_around_any_pixel(size, x):
    new = draws(cutout(size), x, 1500)
    hidden = (new == 0).all(axis=3)
    np.testing.assert_array_equal(new, np.where(hidden[..., None], 0, x[None]))
    expected = np.zeros((63, 9, 7), bool)
    for index, (row, column) in enumerate(np.ndindex(9, 7)):
        for r, c in np.ndindex(9, 7):
            expected[index, r, c] = (
                row - size // 2 <= r < row - size // 2 + size
                and column - size // 2 <= c < column - size // 2 + size
            )
    kinds, weight = np.unique(expected.reshape(63, -1), axis=0, return_counts=True)
    same = (hidden.reshape(1500, 1, -1) == kinds[None]).all(axis=2)
    assert (same.sum(axis=1) == 1).all()
    often = 1500 * weight / 63
    chi_square = ((same.sum(axis=0) - often) ** 2 / often).sum()
    assert chi_square < 120  # at most 62 degrees of freedom


def test_cutout_and_crop_fill():
    assert (draws(cutout(3, fill=0.9), IMAGE, 5) == np.float32(0.9)).any(axis=(1, 2, 3)).all()
    assert (draws(crop(3, fill=0.9), IMAGE, 50) == np.float32(0.9)).any()


def test_all_frames_of_a_video_can_be_changed_alike():
    video = np.broadcast_to(IMAGE, (4, *IMAGE.shape))
    new = draws(lambda x, key: jax.vmap(STRONG["affine"], (0, None))(x, key), video, 3)
    np.testing.assert_allclose(new, np.broadcast_to(new[:, :1], new.shape), atol=1e-6)
    np.testing.assert_allclose(new[:, 0], draws(STRONG["affine"], IMAGE, 3), atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: crop(-1), "padding must be a whole number, 0 or more, got -1"),
        (lambda: crop(1.5), "padding must be a whole number"),
        (lambda: cutout(-2), "size must be a whole number, 0 or more, got -2"),
        (lambda: sometimes(flip(), 1.1), "probability=1.1 must be from 0 to 1"),
        (lambda: affine(degrees=-1), "degrees=-1 must be from 0 to 180"),
        (lambda: affine(translate=1.5), "translate=1.5 must be from 0 to 1"),
        (lambda: affine(shear=90), "shear=90 must be from 0 to 89"),
        (lambda: affine(scale=(0, 1)), r"scale=\(0, 1\) must be \(smallest, largest\)"),
        (lambda: affine(scale=(1.2, 1)), r"scale=\(1.2, 1\) must be"),
        (lambda: colour(brightness=-0.1), "brightness=-0.1 must be from 0 to 1"),
        (lambda: colour(contrast=2), "contrast=2 must be from 0 to 1"),
        (
            lambda: colour(saturation=float("nan")),
            "saturation must be a finite real number, got nan",
        ),
    ],
)
def test_errors_of_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("augment", "x", "message"),
    [
        (crop(7), IMAGE, "padding=7 must be smaller than the image, 9 by 7"),
        (cutout(8), IMAGE, "size=8 must not exceed the image, 9 by 7"),
        (affine(), BYTES, "floats in .*got uint8; declare scale=255"),
        (colour(), BYTES, "got uint8"),
        (colour(saturation=0.1), IMAGE[..., :1], "saturation=0.1 needs .* 3 channels, got 1"),
        (crop(1), IMAGE[..., 0], r"\[height, width, channels\].*float32\[9, 7\]"),
        *((one, IMAGE[None], r"float32\[1, 9, 7, 3\]; vmap over") for one in STRONG.values()),
    ],
)
def test_errors_of_images(augment, x, message):
    with pytest.raises(ValueError, match=message):
        augment(jnp.asarray(x), jax.random.key(0))
