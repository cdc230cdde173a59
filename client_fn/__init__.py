"""The function that trains: its models, its data, and the handlers of each platform.

The package itself imports nothing: `client_fn.function` is the function, and pulls in torch.
"""
