"""The front door of FedKeeper, federated learning over a FaaS fabric: Python SDK and command line.

`fedkeeper.run("quickstart")` trains a job on this machine. `async with fedkeeper.connect() as client` works with a
running system. docs/api.md describes what is here.
"""

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fedkeeper import own_packages

own_packages.find_first()

from broker.errors import (  # noqa: E402 (found by own_packages)
    BadTopic,
    BadUrl,
    BrokerError,
    ConnectFailed,
    CorruptPayload,
    Denied,
    Disconnected,
    ForeignStream,
    NoSystem,
    OldStore,
    ServerFailed,
    StorageFull,
)
from broker.messages.data_report import DataReport  # noqa: E402
from broker.messages.errors import DecodeError, JobError, MessageError, NoSuchModel  # noqa: E402
from broker.messages.job import Job  # noqa: E402
from broker.messages.job_record import JobRecord  # noqa: E402
from broker.messages.job_sections import (  # noqa: E402
    Cohort,
    Data,
    Evaluation,
    Learner,
    Model,
    Override,
    Stop,
    Training,
)
from broker.messages.progress import Progress  # noqa: E402
from broker.messages.register import ClientRecord, ClientStats  # noqa: E402
from broker.messages.schedule import Constant, Cosine, Exponential, Linear, Step  # noqa: E402
from broker.messages.strategy import (  # noqa: E402
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedDyn,
    FedNova,
    FedProx,
    FedYogi,
    FixedGuard,
    Krum,
    Median,
    MedianGuard,
    QFedAvg,
    QuantileGuard,
    Scaffold,
    TrimmedMean,
)
from client_fn.errors import BadCode, BadData, ClientError, DataMissing  # noqa: E402
from fedkeeper import events  # noqa: E402
from fedkeeper.configs import read_job  # noqa: E402
from fedkeeper.errors import (  # noqa: E402
    BadOption,
    FedKeeperError,
    JobFailed,
    JobNotFinished,
    JobRefused,
    JobStopped,
    Missing,
    NoBridge,
    NoModelYet,
    NoSuchFile,
    NoSuchJob,
    NotAnswered,
    NotChecked,
    NotSaved,
)

# These need more: numpy, rich, the server. They are imported when a program first names them.
if TYPE_CHECKING:
    from bridges.errors import BridgeError, PlatformFailed
    from client_fn.data.staging import Staged
    from fedkeeper.local.blocking import resume, run
    from fedkeeper.runs.run import Run, load_run
    from fedkeeper.sdk import Client, connect
    from fedkeeper.sites.site_list import Site

__version__ = version("fedkeeper")

__all__ = [
    "BadCode",
    "BadData",
    "BadOption",
    "BadTopic",
    "BadUrl",
    "BridgeError",
    "BrokerError",
    "Client",
    "ClientError",
    "ClientRecord",
    "ClientStats",
    "Cohort",
    "ConnectFailed",
    "Constant",
    "CorruptPayload",
    "Cosine",
    "Data",
    "DataMissing",
    "DataReport",
    "DecodeError",
    "Denied",
    "Disconnected",
    "Evaluation",
    "Exponential",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedDyn",
    "FedKeeperError",
    "FedNova",
    "FedProx",
    "FedYogi",
    "FixedGuard",
    "ForeignStream",
    "Job",
    "JobError",
    "JobFailed",
    "JobNotFinished",
    "JobRecord",
    "JobRefused",
    "JobStopped",
    "Krum",
    "Learner",
    "Linear",
    "Median",
    "MedianGuard",
    "MessageError",
    "Missing",
    "Model",
    "NoBridge",
    "NoModelYet",
    "NoSuchFile",
    "NoSuchJob",
    "NoSuchModel",
    "NoSystem",
    "NotAnswered",
    "NotChecked",
    "NotSaved",
    "OldStore",
    "Override",
    "PlatformFailed",
    "Progress",
    "QFedAvg",
    "QuantileGuard",
    "Run",
    "Scaffold",
    "ServerFailed",
    "Site",
    "Staged",
    "Step",
    "Stop",
    "StorageFull",
    "Training",
    "TrimmedMean",
    "__version__",
    "connect",
    "events",
    "load_run",
    "read_job",
    "resume",
    "run",
]

_LATER = {
    "BridgeError": "bridges.errors",
    "Client": "fedkeeper.sdk",
    "PlatformFailed": "bridges.errors",
    "Run": "fedkeeper.runs.run",
    "Site": "fedkeeper.sites.site_list",
    "Staged": "client_fn.data.staging",
    "connect": "fedkeeper.sdk",
    "load_run": "fedkeeper.runs.run",
    "resume": "fedkeeper.local.blocking",
    "run": "fedkeeper.local.blocking",
}
"""The modules of the names that are imported later."""


def __getattr__(name: str) -> Any:
    """Import what a program names for the first time (PEP 562)."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_LATER[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the names that the module has, also those that are imported later."""
    return sorted({*globals(), *__all__})
