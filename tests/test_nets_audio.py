import jax
import jax.numpy as jnp
import numpy as np
import pytest
from encoders import quick
from flax import nnx

from metajax import nets

WAVE = jnp.zeros((1, 100))


def test_log_mel_is_numpy_s():
    rate = 2000
    wave = np.random.default_rng(0).normal(size=(2, 300))
    mel = lambda hertz: 2595 * np.log10(1 + hertz / 700)
    edges = np.linspace(0, mel(rate / 2), 12)
    expected = np.zeros((2, 13, 10))
    for frame in range(13):
        piece = np.zeros((2, 64))
        piece[:, :50] = wave[:, 20 * frame : 20 * frame + 50] * np.hanning(51)[:-1]
        for place in range(33):
            turn = np.exp(-2j * np.pi * place * np.arange(64) / 64)
            power = np.abs(piece @ turn) ** 2
            for band in range(10):
                weight = np.interp(mel(place * rate / 64), edges[band : band + 3], [0, 1, 0])
                expected[:, frame, band] += weight * power
    found = nets.log_mel(jnp.asarray(wave), rate=rate, mels=10)
    np.testing.assert_allclose(found, np.log(expected + 1e-6), rtol=1e-9)


def test_a_pure_tone_is_loudest_in_its_band():
    bands = np.array([3, 20, 39])
    top = 2595 * np.log10(1 + 4000 / 700)
    centres = 700 * (10 ** ((bands + 1) * top / 41 / 2595) - 1)
    time = np.arange(2000)[None] / 8000
    tones = jnp.asarray(np.sin(2 * np.pi * centres[:, None] * time))
    mel = quick(nets.log_mel, static_argnames="rate")(tones, rate=8000)
    assert (mel.argmax(-1) == bands[:, None]).all()


REFUSED = {
    "rate=0 Hz": lambda: nets.log_mel(WAVE, rate=0),
    "is longer than the wave of 100": lambda: nets.log_mel(WAVE, rate=8000),
    "mels=40 some bands lie between": lambda: nets.log_mel(WAVE, rate=1000),
    r"Waves must be floats, got int16\[1, 100\].*scale=32768": lambda: nets.Audio(
        nets.GRU(40, 3, width=4, rngs=nnx.Rngs(0)), rate=1000
    )(WAVE.astype(jnp.int16)),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_does_not_fit_is_refused(message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(REFUSED[message])
