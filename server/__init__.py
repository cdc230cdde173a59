"""The FL server: jobs, cohorts, rounds, aggregation, evaluation. It needs a broker and a `Learning`, and no torch.

`server.service.serve` runs the server. The package itself imports nothing, so a program that needs only the errors of
`server.errors` does not load numpy.
"""
