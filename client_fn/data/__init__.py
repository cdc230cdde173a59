"""What clients train on: built-in datasets, how they are dealt, and shards at any URL."""
