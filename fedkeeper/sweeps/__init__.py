"""Sweeps: a job with several values of its fields, from the grid to the runs that follow."""
