"""Augmentation of images, sequences and whole tasks, in compiled code."""

from metajax.data.augment.geometry import affine as affine
from metajax.data.augment.images import Augmentation as Augmentation
from metajax.data.augment.images import colour as colour
from metajax.data.augment.images import compose as compose
from metajax.data.augment.images import crop as crop
from metajax.data.augment.images import cutout as cutout
from metajax.data.augment.images import flip as flip
from metajax.data.augment.images import sometimes as sometimes
from metajax.data.augment.labels import permuted_labels as permuted_labels
from metajax.data.augment.sequences import spec_augment as spec_augment
from metajax.data.augment.sequences import text_dropout as text_dropout
from metajax.data.augment.sequences import wave as wave
from metajax.data.augment.tasks import augmented as augmented
from metajax.data.augment.tasks import mixup as mixup
