"""The commands of `fedkeeper`, a module for each."""
