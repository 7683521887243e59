"""Written and spoken digits, on small files made here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.data.sets.digits import paired_digits, spoken_digits, written_digits


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Digit d by "ann" as 3 samples of d + 1, by "bob" as 6 samples from 10 d + 1; 40 images."""
    monkeypatch.setenv("METAJAX_DATA", str(tmp_path))
    waves = [wave for d in range(10) for wave in ([d + 1] * 3, range(10 * d + 1, 10 * d + 7))]
    np.savez(
        tmp_path / "fsdd.npz",
        wave=np.concatenate(waves).astype(np.int16),
        offset=np.cumsum([0, *(len(wave) for wave in waves)]),
        digit=np.repeat(np.arange(10), 2),
        speaker=["ann", "bob"] * 10,
    )
    image = np.random.default_rng(0).integers(0, 255, (40, 28, 28)).astype(np.uint8)
    np.savez(tmp_path / "mnist.npz", image=image, label=np.arange(40) % 10)
    return image


def test_written_digits(files):
    source = written_digits()
    assert source.names[3] == "three" and source.count.tolist() == [4] * 10
    assert source.scale == 255
    np.testing.assert_array_equal(source.x[:4, :, :, 0], files[::10])


def test_recordings_are_padded_and_cut_at_the_end(files):
    source = spoken_digits(samples=5)
    assert source.x.dtype == jnp.int16 and source.scale == 32768
    assert source.names[4] == "four" and source.count.tolist() == [2] * 10
    assert source.x[8:10].tolist() == [[5, 5, 5, 0, 0], [41, 42, 43, 44, 45]]
    ann = spoken_digits(samples=2, speakers=["ann"])
    assert ann.x.tolist() == [[d + 1] * 2 for d in range(10)]


def test_pairs_share_the_digit_and_nothing_else(files):
    source = paired_digits(pairs=2, samples=6)
    assert dict(source.scale) == {"audio": 32768, "image": 255}
    assert source.x.present["image"].all() and source.x.present["audio"].all()
    singles = {"image": written_digits(), "audio": spoken_digits(samples=6)}
    for name, single in singles.items():
        x, y = np.asarray(single.x), np.asarray(single.y)
        paired = np.asarray(source.x.value[name])
        for digit in range(10):
            known = {row.tobytes() for row in x[y == digit]}
            mine = {row.tobytes() for row in paired[2 * digit : 2 * digit + 2]}
            assert len(mine) == 2 and mine <= known
    again = paired_digits(pairs=2, samples=6)
    jax.tree.map(np.testing.assert_array_equal, source.x, again.x)
    other = paired_digits(pairs=2, samples=6, seed=1)
    assert not np.array_equal(source.x.value["image"], other.x.value["image"])
    with pytest.raises(ValueError, match="pairs=3 of each digit must be 1 to 2"):
        paired_digits(pairs=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"speakers": ["ann", "eve"]}, r"speakers=\['ann', 'eve'\] must be some of \['ann', 'bob'"),
        ({"speakers": []}, r"speakers=\[\]"),
        ({"samples": 0}, "samples must be a whole number, 1 or more, got 0"),
    ],
)
def test_wrong_requests_for_speech_are_refused(files, arguments, message):
    with pytest.raises(ValueError, match=message):
        spoken_digits(**arguments)
