"""The entry points of the platforms, a few lines each."""
