"""Sets of images: what people have on disk becomes one memory-mapped array with classes, splits and groups."""

from innerloop.images.glyphs import glyph_split, glyphs
from innerloop.images.store import Class, Images, images, open_images, save

__all__ = ["Class", "Images", "glyph_split", "glyphs", "images", "open_images", "save"]
