"""The platforms' own files. `client_fn.package` adds them to our code."""
