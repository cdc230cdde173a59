"""Starts, feeds, watches and ends the trainer: the child process that runs `client_fn.training` and the user's code."""
