"""The function that trains: its models, its data, and one handler per platform.

This package imports nothing itself. `client_fn.function` holds the function and imports torch.
"""
