"""The bars of our speed and memory: each is measured, compared with its peer in the same run, and judged."""
