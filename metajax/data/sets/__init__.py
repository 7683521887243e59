"""Data sets that have a name in the literature, or that need no file."""

from metajax.data.sets.characters import hanzi as hanzi
from metajax.data.sets.characters import hanzi_characters as hanzi_characters
from metajax.data.sets.characters import hanzi_pictures as hanzi_pictures
from metajax.data.sets.digits import paired_digits as paired_digits
from metajax.data.sets.digits import spoken_digits as spoken_digits
from metajax.data.sets.digits import written_digits as written_digits
from metajax.data.sets.glyph_images import ScriptSplit as ScriptSplit
from metajax.data.sets.glyph_images import glyphs as glyphs
from metajax.data.sets.glyph_images import split_scripts as split_scripts
from metajax.data.sets.glyph_outlines import glyph_modalities as glyph_modalities
from metajax.data.sets.glyph_outlines import glyph_words as glyph_words
from metajax.data.sets.grocery import groceries as groceries
from metajax.data.sets.grocery import grocery_descriptions as grocery_descriptions
from metajax.data.sets.handwriting import omniglot as omniglot
from metajax.data.sets.handwriting import omniglot_strokes as omniglot_strokes
from metajax.data.sets.intents import clinc150 as clinc150
from metajax.data.sets.intents import clinc150_texts as clinc150_texts
from metajax.data.sets.languages import phrases as phrases
from metajax.data.sets.languages import split_languages as split_languages
from metajax.data.sets.languages import translations as translations
from metajax.data.sets.published_splits import cifar_fs_split as cifar_fs_split
from metajax.data.sets.published_splits import fc100_split as fc100_split
from metajax.data.sets.published_splits import mini_imagenet_split as mini_imagenet_split
from metajax.data.sets.published_splits import omniglot_split as omniglot_split
