"""What decoders raise."""

from typing import Final

UNREADABLE: Final = (ValueError, RecursionError)
"""Errors of decoders for invalid bytes. Those of msgspec and Unicode are ValueErrors; deep nesting is the other."""
