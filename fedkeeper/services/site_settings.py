"""The site of a command: what its options and environment allow jobs to do on this machine."""

import contextlib
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from broker import BrokerUrl
from client_fn import site as client_site
from client_fn.code import archive
from client_fn.code.allow import BUILT_IN, AllowList
from client_fn.code.archive import Archive
from client_fn.errors import BadSettings
from client_fn.site import Site
from fedkeeper import files
from fedkeeper.errors import BadOption
from fedkeeper.options import Metrics, Reveal

SECRET_FILE: Final = "site-secret"  # noqa: S105 (its name)
"""The key of the digests of shards, in the command's folder. `client_fn.code.listing` recognises the folder by it."""

_SECRET_BYTES: Final = 32
_MEMORY: Final = "FEDKEEPER_TRAINER_MEMORY_MB"


def read(
    environ: Mapping[str, str],
    *,
    code: Path | None = None,
    allow: Sequence[str] | None = None,
    device: str = "",
    reveal: Reveal | None = None,
    metrics: Metrics | None = None,
    together: str = "",
) -> Site:
    """Return the site that an environment describes, with a command's options, which have priority.

    Args:
        environ: the environment.
        code: file or folder of the user's code; None: as in the environment.
        allow: names that jobs may use, also several in one text, separated by commas; None: as in the environment.
        device: the device to train on; empty: as in the environment.
        reveal: what others see of an error in user code; None: as in the environment.
        metrics: what others see of the clients' metrics; None: as in the environment.
        together: how many clients are trained in one program, a number or `auto`; empty: as in the environment.

    Raises:
        BadSettings: a variable, `together` or `allow` has a value that can't be used.
    """
    texts = {"device": device, "reveal": reveal and reveal.value, "metrics": metrics and metrics.value}
    options: dict[str, Any] = {name: value for name, value in (*texts.items(), ("code", code)) if value}
    if together:
        options["together"] = client_site.parse_together(together)
    if allow:
        names = ",".join(allow).split(",")
        options["allow"] = tuple(name for part in names if (name := part.strip()))
    site = replace(client_site.read(environ), **options)
    AllowList(site.allow, ())  # a wrong entry must end the command, and not the first job
    return site


def with_own_code(site: Site, types: tuple[str, ...], job_folder: Path) -> Site:
    """Allow the code that the user's job names. Without other code, it may be in the job's or in the current folder.

    Whoever starts `fedkeeper run` submits the job and owns the machine. Only these classes and functions are allowed,
    though: the folder was not named as code.

    Args:
        site: the site.
        types: what the job names, each as `package.module:Name`.
        job_folder: the folder of the job file.
    """
    try:
        AllowList(types, ())
    except BadSettings:
        return site  # no name of a class; the check of the job says so
    site = replace(site, allow=(*site.allow, *types))
    tops = [type_.partition(":")[0].partition(".")[0] for type_ in types]
    folders = () if site.code else (job_folder, Path())
    for folder in folders:
        if any((folder / f"{top}.py").is_file() or any((folder / top).rglob("*.py")) for top in tops):
            return replace(site, code=folder, code_is_allowed=False)
    return site


def prepare(site: Site, folder: Path, *, trainers: int, environ: Mapping[str, str]) -> Site:
    """Return the site with a share of the memory and a folder for copies of the code; create the site's secret.

    Args:
        site: the site.
        folder: the command's folder.
        trainers: how many processes of this machine train or evaluate at the same time.
        environ: the environment, whose FEDKEEPER_TRAINER_MEMORY_MB has priority.

    Raises:
        BadOption: the folder can't be written.
    """
    secret_file(folder)
    if not environ.get(_MEMORY):
        site = replace(site, memory_mb=max(1, site.memory_mb // trainers))
    return with_store(site, folder)


def with_store(site: Site, folder: Path) -> Site:
    """Return the site with a folder for copies of the code, if it has none.

    Args:
        site: the site.
        folder: the command's folder.
    """
    return site if site.code_store else replace(site, code_store=folder.absolute() / "code")


def pack(site: Site) -> Archive | None:
    """Pack the site's code; None: it has none.

    Raises:
        BadCode: the code can't be packed.
    """
    return archive.pack(site.code) if site.code else None


def describe_models(site: Site, packed: Archive | None) -> str:
    """Say in one line which models jobs may name.

    Args:
        site: the site.
        packed: the site's code; None: it has none.
    """
    parts = [f"models: {', '.join(BUILT_IN)}"]
    if packed and site.code_is_allowed:
        modules = ", ".join(sorted(packed.modules))
        parts.append(f"code {archive.short(packed.digest)} from {site.code} ({modules})")
    if site.allow:
        parts.append(f"allowed: {', '.join(site.allow)}")
    if len(parts) == 1:
        parts.append("give --code DIR for models of your own")
    return "; ".join(parts)


def describe_repeatability(site: Site) -> str:
    """Say that models of this site can't be repeated bit for bit; empty if they can.

    Args:
        site: the site, whose device decides, and whether clients are trained together.
    """
    if site.device in {"", "cpu"}:
        if site.most_together == 1:
            return ""
        return "clients are trained together: the bits of a client's update depend on who trains beside it"
    return f"device {site.device}: the same job may give another digest; torch promises equal bits only on a CPU"


def is_this_machine(url: str) -> bool:
    """Return whether a broker's address is one of this machine only.

    Raises:
        BadUrl: the URL is not valid.
    """
    address = BrokerUrl.parse(url)
    return address.scheme == "memory" or all(host.is_loopback for host in address.hosts)


def worker_environment(site: Site, folder: Path) -> dict[str, str]:
    """Return the variables that give a worker process the same site.

    Args:
        site: the site.
        folder: the command's folder, which holds the secret if the environment has none.

    Raises:
        BadOption: the folder can't be written.
    """
    environment = client_site.to_environ(site)
    if site.secret is None:  # otherwise workers inherit the variable that has it
        environment["FEDKEEPER_SITE_SECRET_FILE"] = str(secret_file(folder))
    return environment


def secret_file(folder: Path) -> Path:
    """Return the file with the site's secret; create it if it does not exist. It is never replaced.

    Raises:
        BadOption: the folder can't be written.
    """
    file = folder.absolute() / SECRET_FILE
    if file.exists():
        return file
    files.check_folder(folder, "--dir")
    try:
        with tempfile.NamedTemporaryFile("w", encoding="ascii", dir=folder) as new:  # only its owner can read it
            new.write(secrets.token_hex(_SECRET_BYTES))
            new.flush()
            # A link appears with all of its content, and never replaces the secret of a process that was faster.
            with contextlib.suppress(FileExistsError):
                file.hardlink_to(new.name)
    except OSError as exc:
        raise BadOption(f"--dir {folder}: {exc.strerror}") from exc
    return file
