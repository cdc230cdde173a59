"""What a class of the user's imports to say how to learn: `from client_fn.learner import Context, Learner`."""

from client_fn.training.context import Context
from client_fn.training.learner import Learner
from client_fn.training.source import Source

__all__ = ["Context", "Learner", "Source"]
