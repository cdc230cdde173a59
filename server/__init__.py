"""Decides: jobs, cohorts, rounds, aggregation, evaluation. Needs a broker and a `Learning`, and no torch.

`server.service.serve` is the server. The package itself imports nothing, so that a program that only knows the errors
of `server.errors` loads no numpy.
"""
