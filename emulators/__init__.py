"""Emulators of the FaaS platforms, with their wrong answers, for tests, `make fabric` and benchmarks."""
