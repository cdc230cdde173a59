"""The command `fedkeeper server`: the FL server alone."""

import os

from broker.support import logs
from fedkeeper import running
from fedkeeper.options import (
    FOLDER,
    KEEP,
    KEEP_BYTES,
    Allow,
    Code,
    DataDir,
    Folder,
    KeepBytes,
    KeepDays,
    KeepJobs,
    Replicas,
    RevealOption,
    Url,
    Verbose,
    broker_url,
    retention,
)
from fedkeeper.services import site_settings, system


def server(
    url: Url = "",
    code: Code = None,
    allow: Allow = None,
    reveal: RevealOption = None,
    folder: Folder = FOLDER,
    data: DataDir = None,
    keep_days: KeepDays = KEEP.days,
    keep_jobs: KeepJobs = KEEP.jobs,
    keep_bytes: KeepBytes = KEEP_BYTES,
    replicas: Replicas = 1,
    verbose: Verbose = False,
) -> None:
    """Run the FL server alone."""
    logs.configure(verbose=verbose)
    keep = retention(keep_days, keep_jobs, keep_bytes)
    site = site_settings.read(os.environ, code=code, allow=allow, reveal=reveal)
    address = broker_url(url, replicas=replicas)
    running.run(system.run_server(address, site_settings.with_store(site, folder), data, None, keep))
