"""Data sets read from files: folders, tables, TensorFlow Datasets and streams."""

from metajax.data.read.folders import image_folder as image_folder
from metajax.data.read.pictures import square as square
from metajax.data.read.sounds import wave_folder as wave_folder
from metajax.data.read.streams import Stream as Stream
from metajax.data.read.streams import stream as stream
from metajax.data.read.streams import tasks_of as tasks_of
from metajax.data.read.tables import table as table
from metajax.data.read.tensorflow_sets import tfds as tfds
from metajax.data.read.tensorflow_sets import tfds_rows as tfds_rows
