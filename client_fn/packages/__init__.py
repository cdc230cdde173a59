"""What goes into the platforms' packages beside our own code; `client_fn.package` puts them together."""
