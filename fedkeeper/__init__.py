"""The front door of FedKeeper, federated learning over a FaaS fabric: Python SDK and command line."""

from importlib.metadata import version

from fedkeeper import own_packages

own_packages.find_first()

from broker.messages.job import Job  # noqa: E402 (found by own_packages)
from broker.messages.progress import Progress  # noqa: E402
from fedkeeper.sdk import Client, connect  # noqa: E402

__version__ = version("fedkeeper")

__all__ = ["Client", "Job", "Progress", "__version__", "connect"]
