"""Training data: built-in datasets, their partition among clients, and shards at any URL."""
