"""An example of each command, as its `--help` shows it. A test parses them all."""

from typing import Any, Final

EXAMPLES: Final[dict[str, tuple[str, ...]]] = {
    "run": (
        "fedkeeper run quickstart",
        "fedkeeper run job.toml --set stop.rounds=5 --set training.optimizer=sgd",
    ),
    "up": ("fedkeeper up", "fedkeeper up --url mqtt://127.0.0.1:1883 --workers 2"),
    "submit": ("fedkeeper submit job.toml --wait", "fedkeeper submit job.json --json"),
    "watch": ("fedkeeper watch quickstart-1a2b3c", "fedkeeper watch --since 10min --json"),
    "fetch": ("fedkeeper fetch quickstart-1a2b3c",),
    "export": (
        "fedkeeper export runs/latest --onnx model.onnx",
        "fedkeeper export quickstart-1a2b3c --state-dict model.pt",
    ),
    "delete": ("fedkeeper delete quickstart-1a2b3c",),
    "prune": ("fedkeeper prune --older 30d --keep 20",),
    "new": ("fedkeeper new job.toml",),
    "fields": ("fedkeeper fields training", "fedkeeper fields stop.rounds"),
    "jobs": ("fedkeeper jobs --phase running --phase failed", "fedkeeper jobs --json"),
    "cancel": ("fedkeeper cancel quickstart-1a2b3c",),
    "sweep": ("fedkeeper sweep job.toml --grid training.learning_rate=0.1,0.01 --seeds 5",),
    "compare": ("fedkeeper compare runs/one runs/two --plot compared.png",),
    "plot": ("fedkeeper plot runs/latest",),
    "clients": ("fedkeeper clients", "fedkeeper clients --json"),
    "clients add": (
        "fedkeeper clients add board-1 --platform board-1 --data-loc /data/shard.npz --no-check",
        "fedkeeper clients add --from boards.csv --dry-run",
    ),
    "clients check": ("fedkeeper clients check --all --register",),
    "clients remove": ("fedkeeper clients remove board-1 board-2",),
    "clients pause": ("fedkeeper clients pause board-1", "fedkeeper clients pause board-1 --resume"),
    "sites": ("fedkeeper sites 'board-*' --check",),
    "stage": (
        "fedkeeper stage quickstart --register",
        "fedkeeper stage --from houses.csv --target price --clients 5 --register",
    ),
    "server": ("fedkeeper server --url 'nats://server@broker.example?password_file=/etc/fedkeeper/password'",),
    "bridge": ("fedkeeper bridge openfaas --config configs/bridges/openfaas.toml",),
    "bridge local": ("fedkeeper bridge local --platform board-1 --device cuda",),
    "bridge relay": ("fedkeeper bridge relay --config configs/bridges/relay.toml",),
    "deploy": ("fedkeeper deploy configs/fabric-dev.toml --plan",),
    "package": ("fedkeeper package openfaas --code mine.py --out build",),
}
"""Command lines, by command."""


def epilog(path: str) -> str:
    """Return the end of a command's help text.

    Args:
        path: the command's name, with those of its groups.
    """
    return _paragraph(EXAMPLES.get(path, ()))


def of_bridge(kind: str) -> str:
    """Return the end of the help text of the bridge to a kind of platform."""
    return _paragraph((f"fedkeeper bridge {kind} --config {kind}.toml",))


def _paragraph(lines: tuple[str, ...]) -> str:
    if not lines:
        return ""
    title = "Examples:" if len(lines) > 1 else "Example:"
    # \b: not wrapped, so that the lines can be copied.
    return "\n".join(["\b", title, *(f"  {line}" for line in lines)])


def add(command: Any, path: str) -> None:
    """Add the examples to a command's help text, and to those of its commands.

    Args:
        command: a command of typer.
        path: its name, with those of its groups.
    """
    command.epilog = epilog(path)
    for name, inner in getattr(command, "commands", {}).items():
        add(inner, f"{path} {name}")
