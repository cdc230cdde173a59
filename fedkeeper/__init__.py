"""The front door of FedKeeper, federated learning over a FaaS fabric: Python SDK and command line."""

from importlib.metadata import version

from broker.messages.job import Job
from broker.messages.progress import Progress
from fedkeeper.sdk import Client, connect

__version__ = version("fedkeeper")

__all__ = ["Client", "Job", "Progress", "__version__", "connect"]
