"""The user's code: its archive, its copies on disk, the models that a job may name, and what the code requires.

Nothing here imports or runs the user's code.
"""
