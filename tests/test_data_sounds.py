"""A user's own folders of recordings, good and bad."""

import os
import struct
import wave

import jax
import numpy as np
import pytest
from scipy.io import wavfile

from metajax.data.datasets import Dataset, select
from metajax.data.read.sounds import decode_wave, wave_folder
from metajax.data.tasks import episodes
from metajax.nets import log_mel
from metajax.types import Series

RATE = 8000
STORED = np.array([0, 1, -1, 3000, -3000, 32767, -32768], np.int64)  # as 16 bits


def save(path, samples, rate=RATE):
    """A file of scipy, whose format is that of the array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wavfile.write(path, rate, samples)


def tone(hertz=440, seconds=0.5, rate=RATE, level=8000):
    return (level * np.sin(2 * np.pi * hertz * np.arange(seconds * rate) / rate)).astype(np.int16)


@pytest.fixture
def voices(tmp_path):
    """Two words of ann and one of bob: a tone, some silence around it, and a tone in stereo."""
    save(tmp_path / "ann" / "no" / "1.wav", tone())
    save(tmp_path / "ann" / "no" / "2.WAV", np.pad(tone(), (800, 1600)))
    save(tmp_path / "ann" / "yes" / "1.wav", tone(seconds=2))
    save(tmp_path / "bob" / "no" / "1.wav", np.stack([tone(), 0 * tone()], axis=1))
    (tmp_path / "bob" / "no" / "notes.txt").write_text("no recording")
    (tmp_path / "bob" / ".hidden.wav").write_text("no recording")
    return tmp_path


def test_a_wave_folder_is_a_data_set_of_series(voices):
    source = wave_folder(voices, rate=RATE, seconds=1)
    assert isinstance(source, Dataset) and isinstance(source.x, Series)
    assert source.names == ("ann/no", "ann/yes", "bob/no") and source.scale == 32768
    assert source.x.value.shape == (4, 8000, 1) and source.x.value.dtype == np.int16
    assert source.x.length.tolist() == [4000, 6400, 8000, 4000]
    value = np.asarray(source.x.value)[..., 0]
    np.testing.assert_array_equal(value[0], np.pad(tone(), (0, 4000)))  # 16 bits as they are
    np.testing.assert_array_equal(value[1], np.pad(tone(), (800, 1600 + 1600)))
    np.testing.assert_array_equal(value[2], tone(seconds=2)[:8000])  # cut
    np.testing.assert_allclose(value[3, :4000], tone() / 2, atol=1)  # the mean of two channels


def test_silence_is_cut_before_the_length(voices):
    source = wave_folder(voices, rate=RATE, seconds=0.6, silence=30)
    assert source.x.length.tolist() == [4000, 4000, 4800, 4000]
    np.testing.assert_array_equal(source.x.value[1], source.x.value[0])
    quiet = np.concatenate([tone(level=80), tone()])
    save(voices / "ann" / "no" / "2.WAV", quiet)  # 40 dB below the rest
    assert wave_folder(voices, rate=RATE, seconds=2, silence=30).x.length[1] == 4000
    assert wave_folder(voices, rate=RATE, seconds=2, silence=50).x.length[1] == 8000


def test_recordings_of_several_rates_have_one_rate(tmp_path):
    for rate in (8000, 11025, 44100):
        save(tmp_path / "tone" / f"{rate}.wav", tone(rate=rate), rate)
    source = wave_folder(str(tmp_path), rate=16000, seconds=0.5)
    np.testing.assert_allclose(source.x.length, 8000, atol=1)
    spectrum = np.abs(np.fft.rfft(np.asarray(source.x.value)[..., 0], axis=1))
    assert spectrum.argmax(axis=1).tolist() == [220] * 3  # 440 Hz in half a second


def test_tasks_are_drawn_as_floats_that_the_spectrogram_takes(voices):
    source = wave_folder(voices / "ann", rate=RATE, seconds=0.6)
    source = select(source, lambda name: name == "no")
    task = jax.jit(episodes(1, 1, 1))(source, jax.random.key(0))
    value = task.support.x.value
    assert value.shape == (1, 4800, 1) and value.dtype == np.float32
    np.testing.assert_allclose(np.abs(value).max(), 8000 / 32768, rtol=1e-3)
    assert log_mel(value[..., 0], rate=RATE).shape == (1, 58, 40)
    assert {int(task.support.x.length[0]), int(task.query.x.length[0])} == {4000, 4800}


def extensible(samples, rate=RATE):
    """A file of 24 bits with the longer header that recorders write: WAVE_FORMAT_EXTENSIBLE."""
    data = (samples << 8).astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    kind = b"\x01\0\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71"  # the identifier of PCM
    header = struct.pack("<HHIIHHHHI", 0xFFFE, 1, rate, 3 * rate, 3, 24, 22, 24, 4) + kind
    chunks = b"WAVE" + chunk(b"fmt ", header) + chunk(b"data", data)
    return chunk(b"RIFF", chunks)


def chunk(name, body):
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def by_standard_library(path, samples, width):
    """A file of so many bytes for a sample, written by Python's own `wave`."""
    shifted = samples >> 8 if width == 1 else samples << 8 * (width - 2)
    encoded = [
        int(value + 128 * (width == 1)).to_bytes(width, "little", signed=width > 1)
        for value in shifted
    ]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(width)
        file.setframerate(RATE)
        file.writeframes(b"".join(encoded))


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_pcm_of_any_width_is_read(width, tmp_path):
    by_standard_library(tmp_path / "a.wav", STORED, width)
    samples, rate = decode_wave((tmp_path / "a.wav").read_bytes())
    expected = STORED // 256 * 256 if width == 1 else STORED
    assert rate == RATE
    np.testing.assert_array_equal(samples, expected / 32768)


def test_other_formats_of_the_same_recording_are_equal(tmp_path):
    floats = (STORED / 32768).astype(np.float32)
    save(tmp_path / "a" / "float.wav", floats)
    save(tmp_path / "a" / "double.wav", floats.astype(np.float64))
    (tmp_path / "a" / "extensible.wav").write_bytes(extensible(STORED))
    written = (tmp_path / "a" / "float.wav").read_bytes()
    (tmp_path / "a" / "tagged.wav").write_bytes(written + chunk(b"id3 ", b"a title"))
    save(tmp_path / "a" / "loud.wav", np.float32([2, -2, 0, 0, 0, 0, 0]))
    source = wave_folder(tmp_path, rate=RATE, seconds=7 / RATE)
    value = np.asarray(source.x.value)[..., 0]
    names = sorted(path.stem for path in (tmp_path / "a").iterdir())
    assert names == ["double", "extensible", "float", "loud", "tagged"]
    for row in (0, 1, 2, 4):
        np.testing.assert_array_equal(value[row], STORED)
    assert value[3].tolist() == [32767, -32768, 0, 0, 0, 0, 0]


def replaced(encoded, place, code, number):
    """The bytes with another number at a place of the header."""
    size = struct.calcsize(code)
    return encoded[:place] + struct.pack(code, number) + encoded[place + size :]


def test_damaged_files_are_an_error_or_left_out(voices):
    good = (voices / "ann" / "no" / "1.wav").read_bytes()
    holes = np.full(100, np.nan, np.float32)
    damaged = {
        "empty": (b"", "it has 0 bytes, too few for a header"),
        "text": (b"no recording at all", "it has no chunk of data"),
        "picture": (b"\x89PNG" + good[4:], "not understood"),
        "cut": (good[:-10], f"it ends after {len(good) - 10} of {len(good)} bytes"),
        "header": (good[:30], "it ends after 30 of 36 bytes"),
        "no data": (good[:36], "it has no chunk of data"),
        "no sample": (good[:40] + b"\0\0\0\0", "it has 0 samples at 8000 per second"),
        "no rate": (replaced(replaced(good, 24, "<I", 0), 28, "<I", 0), "samples at 0 per"),
        "rate": (
            replaced(replaced(good, 24, "<I", 2**31 - 1), 28, "<I", 2**32 - 2),
            "at most 1000",
        ),
        "channels": (replaced(good, 22, "<H", 0), "by zero"),
        "format": (replaced(good, 20, "<H", 2), "Unknown wave file format: ADPCM"),
        "size": (replaced(good, 40, "<I", 2**31), "it ends after"),
    }
    lost = []
    for name, (encoded, message) in damaged.items():
        file = voices / "bob" / "no" / f"{name}.wav"
        file.write_bytes(encoded)
        with pytest.raises(ValueError, match=f"{name}.wav cannot be read .*{message}.*broken="):
            wave_folder(voices, rate=RATE, seconds=1)
        assert wave_folder(voices, rate=RATE, seconds=1, broken=lost.append).sizes == (2, 1, 1)
        assert lost.pop() == file and not lost
        file.unlink()
    save(voices / "bob" / "no" / "hole.wav", holes)
    with pytest.raises(ValueError, match=r"hole\.wav cannot be read .* not finite"):
        wave_folder(voices, rate=RATE, seconds=1)
    (voices / "bob" / "no" / "1.wav").unlink()
    with pytest.raises(ValueError, match=r"No recording of the classes \['bob/no'\] can be read"):
        wave_folder(voices, rate=RATE, seconds=1, broken=lost.append)


def test_the_limits_are_arguments(voices):
    with pytest.raises(ValueError, match=r"it is 2\.0 s long, and most_seconds is 1\.9"):
        wave_folder(voices, rate=RATE, seconds=1, most_seconds=1.9)
    assert wave_folder(voices, rate=RATE, seconds=1, most_seconds=2).classes == 3
    size = (voices / "ann" / "yes" / "1.wav").stat().st_size
    with pytest.raises(ValueError, match=f"it has {size} bytes, and most_bytes is {size - 1}"):
        wave_folder(voices, rate=RATE, seconds=1, most_bytes=size - 1)
    assert wave_folder(voices, rate=RATE, seconds=1, most_bytes=size).classes == 3
    # A few samples at one per second would be a recording of hours at the new rate.
    slow = voices / "bob" / "no" / "slow.wav"
    save(slow, tone(), 1)
    with pytest.raises(ValueError, match=r"it is 4000\.0 s long, and most_seconds is 600"):
        wave_folder(voices, rate=RATE, seconds=1)


def test_pipes_and_links_are_as_in_a_folder_of_images(voices):
    pipe = voices / "bob" / "no" / "pipe.wav"
    os.mkfifo(pipe)
    with pytest.raises(ValueError, match=r"pipe\.wav cannot be read .*not a regular file"):
        wave_folder(voices, rate=RATE, seconds=1)
    pipe.unlink()
    pipe.symlink_to(voices / "nowhere.wav")
    with pytest.raises(ValueError, match=r"pipe\.wav cannot be read .*not a regular file"):
        wave_folder(voices, rate=RATE, seconds=1)
    pipe.unlink()
    pipe.symlink_to(voices / "ann" / "no" / "1.wav")
    assert wave_folder(voices, rate=RATE, seconds=1).sizes == (2, 1, 2)
    (voices / "bob" / "again").symlink_to(voices)
    with pytest.raises(ValueError, match="again is a link to a folder that it is in"):
        wave_folder(voices, rate=RATE, seconds=1)


def test_bad_folders_and_sizes_are_refused(voices):
    with pytest.raises(FileNotFoundError, match=r"none is not a folder; .* of recordings"):
        wave_folder(voices / "none", rate=RATE, seconds=1)
    with pytest.raises(ValueError, match=r"seconds=1e-06 must have a sample at rate=8000"):
        wave_folder(voices, rate=RATE, seconds=1e-6)
    with pytest.raises(ValueError, match="seconds must be above 0 and finite, got -1"):
        wave_folder(voices, rate=RATE, seconds=-1)
    (voices / "carl").mkdir()
    with pytest.raises(ValueError, match=r"Folders \['carl'\] .* have no recording \(\.wav, "):
        wave_folder(voices, rate=RATE, seconds=1)
    save(voices / "stray.wav", tone())
    with pytest.raises(ValueError, match=r"1 recordings lie in .* itself, such as stray\.wav"):
        wave_folder(voices, rate=RATE, seconds=1)
