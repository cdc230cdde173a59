"""What the operator of a machine allows and sets for the user's code and data, read from the environment.

Functions, local workers and the FL server use the same variables. No message can change any of them.
"""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from client_fn.errors import BadSettings

SCHEMES: Final = ("file", "s3", "gs", "abfs", "https")
"""The schemes of `data_loc` that are allowed by default."""

PACKAGED: Final = "code"
"""The folder of the user's code in a function's archive."""

MOST_TOGETHER: Final = 64
"""Most clients in one program: with three files each, they fit beside one packet to the trainer."""

MEMORY_SHARE: Final = 0.8
"""Share of the machine's memory that a trainer may use by default."""

_MB: Final = 1 << 20

_CONTAINER_LIMITS: Final = (
    # cgroup v2: https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files
    Path("/sys/fs/cgroup/memory.max"),
    # v1, as with JetPack 5: https://docs.kernel.org/admin-guide/cgroup-v1/memory.html
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@dataclass(frozen=True, slots=True)
class Site:
    """The settings of a site: a machine, or a function, that trains or evaluates.

    Attributes:
        device: FEDKEEPER_DEVICE, the device that models train on, as torch names it; empty: as the job says.
        allow: FEDKEEPER_ALLOW, separated by commas: what a job may name beside the site's code. `a.b` allows the module
            and everything below it, `a.b:Name` that one name.
        code: FEDKEEPER_CODE, file or folder of the user's code. None: there is none.
        code_is_allowed: FEDKEEPER_CODE_ALLOWED, 1: a job may name every class of the code; 0: only what `allow` says.
        code_store: FEDKEEPER_CODE_STORE, folder that keeps a copy of each version of the code that was used. None: a
            temporary folder.
        python: FEDKEEPER_TRAINER_PYTHON, the Python that trains. Empty: this one.
        fork_server: FEDKEEPER_FORK_SERVER, socket of a process of which trainers are copies; `fedkeeper` sets it. None:
            each trainer imports torch itself.
        memory_mb: FEDKEEPER_TRAINER_MEMORY_MB, the most memory that a trainer may use, in MiB.
        silence_s: FEDKEEPER_TRAINER_SILENCE_S, how long user code may run without finishing an import, a constructor or
            a batch. Seconds.
        variables: FEDKEEPER_TRAINER_ENV, separated by commas: names of further environment variables that the trainer
            gets.
        reveal: FEDKEEPER_REVEAL, what leaves the site of an error in user code: `class`, its class and line; `text`,
            also its text, which may hold data.
        metrics: FEDKEEPER_METRICS, `sum`: others see the clients' metrics only as a round's mean.
        data_schemes: FEDKEEPER_DATA_SCHEMES, separated by commas: the allowed schemes of `data_loc` and `state_loc`.
        data_prefixes: FEDKEEPER_DATA_PREFIXES, separated by commas: folders and URLs below which data may lie, and
            below which personal layers may be written (`client_fn.state_store`; nothing else is). Empty: everywhere.
        data_max_mb: FEDKEEPER_DATA_MAX_MB, size of the largest shard, in MiB.
        together: FEDKEEPER_TOGETHER, how many clients of a round a local worker may train in one program, or `auto`, as
            many as fit into memory; 1: one by one. 0: as many as fit on a GPU, and one by one on a CPU.
        graphs: FEDKEEPER_GRAPHS, 1: clients that are trained in one program on a GPU are trained from a record of one
            step's work, a CUDA graph, where that gives the same; 0: without one.
        secret: FEDKEEPER_SITE_SECRET, or the content of the file FEDKEEPER_SITE_SECRET_FILE: the key of the digests of
            shards. None: a random one for each process.
    """

    device: str = ""
    allow: tuple[str, ...] = ()
    code: Path | None = None
    code_is_allowed: bool = True
    code_store: Path | None = None
    python: str = ""
    fork_server: Path | None = None
    memory_mb: int = field(default_factory=lambda: int(machine_memory_mb() * MEMORY_SHARE))
    silence_s: float = 45.0
    variables: tuple[str, ...] = ()
    reveal: Literal["class", "text"] = "class"
    metrics: Literal["client", "sum"] = "client"
    data_schemes: tuple[str, ...] = SCHEMES
    data_prefixes: tuple[str, ...] = ()
    data_max_mb: int = 4096
    together: int = 0
    graphs: bool = True
    secret: bytes | None = field(default=None, repr=False)

    @property
    def most_together(self) -> int:
        """How many clients of a round a local worker may train in one program."""
        return self.together or (MOST_TOGETHER if self.device.startswith("cuda") else 1)

    @property
    def allocation_mb(self) -> int:
        """What a trainer may allocate, in MiB; 0: that is not limited. The worker looks at its memory besides."""
        # RLIMIT_DATA counts what CUDA reserves and does not use.
        return self.memory_mb if self.device in {"", "cpu"} else 0


def packaged_code() -> Path | None:
    """Return the user's code that `client_fn.package` has put into this function's archive, or None."""
    folder = Path(__file__).parent.parent / PACKAGED
    return folder if folder.is_dir() else None


def read(environ: Mapping[str, str], code: Path | None = None) -> Site:
    """Return the settings in an environment.

    Args:
        environ: the environment.
        code: file or folder of the user's code if FEDKEEPER_CODE is not set; functions give `packaged_code()`.

    Raises:
        BadSettings: a variable has a value that can't be used, or a file can't be read.
    """
    default = Site()
    return Site(
        device=environ.get("FEDKEEPER_DEVICE") or default.device,
        allow=_texts(environ, "FEDKEEPER_ALLOW", ()),
        code=_path(environ, "FEDKEEPER_CODE") or code,
        code_is_allowed=_one_of(environ, "FEDKEEPER_CODE_ALLOWED", ("1", "0")) == "1",
        code_store=_path(environ, "FEDKEEPER_CODE_STORE"),
        python=environ.get("FEDKEEPER_TRAINER_PYTHON", ""),
        fork_server=_path(environ, "FEDKEEPER_FORK_SERVER"),
        memory_mb=int(_number(environ, "FEDKEEPER_TRAINER_MEMORY_MB", default.memory_mb)),
        silence_s=_number(environ, "FEDKEEPER_TRAINER_SILENCE_S", default.silence_s),
        variables=_texts(environ, "FEDKEEPER_TRAINER_ENV", ()),
        reveal="text" if _one_of(environ, "FEDKEEPER_REVEAL", ("class", "text")) == "text" else "class",
        metrics="sum" if _one_of(environ, "FEDKEEPER_METRICS", ("client", "sum")) == "sum" else "client",
        data_schemes=_texts(environ, "FEDKEEPER_DATA_SCHEMES", SCHEMES),
        data_prefixes=_texts(environ, "FEDKEEPER_DATA_PREFIXES", ()),
        data_max_mb=int(_number(environ, "FEDKEEPER_DATA_MAX_MB", default.data_max_mb)),
        together=parse_together(environ.get("FEDKEEPER_TOGETHER", "")),
        graphs=_one_of(environ, "FEDKEEPER_GRAPHS", ("1", "0")) == "1",
        secret=_secret(environ),
    )


def to_environ(site: Site) -> dict[str, str]:
    """Return the environment of another process with the same settings, without the secret.

    The caller passes the secret on as a file.
    """
    paths = {
        "FEDKEEPER_CODE": site.code,
        "FEDKEEPER_CODE_STORE": site.code_store,
        "FEDKEEPER_FORK_SERVER": site.fork_server,
    }
    texts = {
        "FEDKEEPER_DEVICE": site.device,
        "FEDKEEPER_ALLOW": ",".join(site.allow),
        "FEDKEEPER_CODE_ALLOWED": "1" if site.code_is_allowed else "0",
        "FEDKEEPER_TRAINER_PYTHON": site.python,
        "FEDKEEPER_TRAINER_MEMORY_MB": str(site.memory_mb),
        "FEDKEEPER_TRAINER_SILENCE_S": f"{site.silence_s:g}",
        "FEDKEEPER_TRAINER_ENV": ",".join(site.variables),
        "FEDKEEPER_REVEAL": site.reveal,
        "FEDKEEPER_METRICS": site.metrics,
        "FEDKEEPER_DATA_SCHEMES": ",".join(site.data_schemes),
        "FEDKEEPER_DATA_PREFIXES": ",".join(site.data_prefixes),
        "FEDKEEPER_DATA_MAX_MB": str(site.data_max_mb),
        "FEDKEEPER_TOGETHER": str(site.together or ""),
        "FEDKEEPER_GRAPHS": "1" if site.graphs else "0",
    }
    return texts | {name: str(path.absolute()) for name, path in paths.items() if path is not None}


def parse_together(text: str) -> int:
    """Return how many clients may be trained in one program; 0: the device decides.

    Args:
        text: a number from 1, `auto` (as many as fit), or empty.

    Raises:
        BadSettings: it is something else.
    """
    if not text:
        return 0
    if text == "auto":
        return MOST_TOGETHER
    if text.isascii() and text.isdecimal() and 1 <= int(text) <= MOST_TOGETHER:
        return int(text)
    raise BadSettings("FEDKEEPER_TOGETHER", f"{text!r} is neither 'auto' nor a number from 1 to {MOST_TOGETHER}")


def machine_memory_mb() -> int:
    """Return the memory of this machine, or of this container if that is less, in MiB."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in _CONTAINER_LIMITS:
        with contextlib.suppress(OSError, ValueError):
            limits.append(int(file.read_text()))
    return min(limits) // _MB


def _texts(environ: Mapping[str, str], name: str, default: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part.strip() for part in environ.get(name, "").split(",") if part.strip()) or default


def _path(environ: Mapping[str, str], name: str) -> Path | None:
    return Path(environ[name]) if environ.get(name) else None


def _number(environ: Mapping[str, str], name: str, default: float) -> float:
    text = environ.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise BadSettings(name, f"{text!r} is no number above 0")
    return value


def _one_of(environ: Mapping[str, str], name: str, known: tuple[str, ...]) -> str:
    text = environ.get(name) or known[0]
    if text not in known:
        raise BadSettings(name, f"{text!r} is none of {', '.join(known)}")
    return text


def _secret(environ: Mapping[str, str]) -> bytes | None:
    file, text = environ.get("FEDKEEPER_SITE_SECRET_FILE"), environ.get("FEDKEEPER_SITE_SECRET")
    if not file:
        return text.encode() if text else None
    try:
        return Path(file).read_bytes().strip() or None
    except OSError as exc:
        raise BadSettings("FEDKEEPER_SITE_SECRET_FILE", f"{file} can't be read: {exc}") from exc
