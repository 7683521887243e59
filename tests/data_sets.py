"""What several test files read from fonts and locales. Each is made once in a process."""

import functools

from metajax.data.sets.glyph_fonts import DrawnClasses, drawn_classes
from metajax.data.sets.languages import Phrases, phrases


@functools.cache
def drawn() -> DrawnClasses:
    """All letters of the fonts inside matplotlib."""
    return drawn_classes(12)


@functools.cache
def corpus() -> Phrases:
    """Phrases in all languages."""
    return phrases()
