"""Runs: the folders with what jobs have left, and what is made of them."""
