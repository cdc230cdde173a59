"""The messages of the shops in `examples/texts`."""

from examples.texts.make_data import make

__all__ = ["make"]
