"""The FaaS platforms, wrong answers included: for tests, `make fabric` and benchmarks."""
