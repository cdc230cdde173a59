"""The command `fedkeeper stage`: splits data among clients and writes their shards."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import tomli_w
import typer

from broker.messages import job_file
from broker.messages.job_sections import Data
from broker.messages.register import ClientRecord
from broker.support import logs
from fedkeeper import configs, results, running
from fedkeeper import own_data as split
from fedkeeper.display import screen
from fedkeeper.errors import BadOption
from fedkeeper.options import FOLDER, DataDir, Json, Set, Url, broker_url
from fedkeeper.sdk import connect

if TYPE_CHECKING:
    from client_fn.data.staging import Staged

app = typer.Typer()

BY: Final = "by:"

From = Annotated[
    Path | None,
    typer.Option(
        "--from", metavar="FILE|FOLDER", help="Your own data: .csv, .parquet, .npz, .safetensors, a folder of images."
    ),
]
"""The option that names the user's own data."""


@app.command()
def stage(
    job: Annotated[str, typer.Argument(metavar="JOB", help="A job file: its built-in dataset is split.")] = "",
    own_data: From = None,
    to: Annotated[str, typer.Option(help="Folder or fsspec URL; each client gets its own folder below it.")] = str(
        FOLDER / "shards"
    ),
    clients: Annotated[int, typer.Option(min=0, help="Own data: number of clients.")] = 0,
    partition: Annotated[
        str,
        typer.Option(metavar="iid|shards|dirichlet|by:COLUMN", help="Own data: how it is split, as in a job file."),
    ] = "iid",
    name: Annotated[str, typer.Option(help="Own data: its name in jobs. Default: the file's.")] = "",
    target: Annotated[str, typer.Option(help="Own data: the column of a table that is predicted.")] = "",
    drop: Annotated[list[str] | None, typer.Option(help="Own data: a column that is left out. Repeatable.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="Own data: a class; the first is 0. Repeatable.")] = None,
    form: Annotated[str, typer.Option("--format", help="Own data: its format, if its name does not tell.")] = "",
    test: Annotated[float, typer.Option(min=0, max=0.9, help="Own data: share of the samples for a test set.")] = 0.0,
    alpha: Annotated[float, typer.Option(min=0.000001, help="Own data: similarity of the clients; dirichlet.")] = 0.5,
    per_client: Annotated[int, typer.Option(min=1, help="Own data: label shards per client; shards.")] = 2,
    min_samples: Annotated[int, typer.Option(min=1, help="Own data: fewest samples of a client; dirichlet.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Own data: seed of the partition.")] = 0,
    register: Annotated[bool, typer.Option("--register", help="Add the clients to the register.")] = False,
    platform: Annotated[str, typer.Option(help="The platform that hosts the clients.")] = "local",
    overrides: Set = None,
    url: Url = "",
    data: DataDir = None,
    as_json: Json = False,
) -> None:
    """Split data among clients and write one shard for each.

    The data is a job's built-in dataset, or your own with --from.
    """
    logs.configure(quiet=True)
    if (own_data is None) == (not job):
        raise BadOption("name a job file, or your own data with --from FILE")
    address = broker_url(url) if register else url
    if own_data is None:
        section = configs.read_job(job, tuple(overrides or ())).data
        _stage_built_in(section, to, platform, address, data, as_json=as_json)
        return
    by = partition.removeprefix(BY) if partition.startswith(BY) else ""
    if bool(clients) == bool(by):
        raise BadOption("--clients: give the number of clients, or --partition by:COLUMN for one per value, not both")
    fields = {
        "dataset": name or split.name_of(own_data),
        "partition": "iid" if by else partition,
        "clients": clients or 1,
        "alpha": alpha,
        "shards_per_client": per_client,
        "min_samples": min_samples,
        "seed": seed,
        "target": target,
        "drop": drop or [],
        "labels": label or [],
        "format": form,
    }
    # As in a job file, with its rules and its errors.
    section = job_file.from_dict({"data": fields, "cohort": {"clients": 1}}).data
    with split.mistakes_of_options():
        staged = split.stage_file(own_data, section, to, platform=platform, by=by, test=test)
    _register(address, staged.clients)
    result = _result(staged.clients, is_registered=bool(address), job=job_tables(staged))
    screen.show(result, describe(staged, is_registered=bool(address)), as_json=as_json)


def _result(
    clients: Sequence[ClientRecord], *, is_registered: bool, job: dict[str, Any] | None = None
) -> results.StagedData:
    shards = tuple(
        results.StagedClient(client=client.id, samples=client.samples, data_loc=client.data_loc) for client in clients
    )
    return results.StagedData(clients=shards, registered=is_registered, job=job or {})


def describe(staged: "Staged", *, is_registered: bool) -> str:
    """Return what was staged, and the lines of a job file that fit it.

    Args:
        staged: the shards.
        is_registered: whether the clients are in the register.
    """
    clients = staged.clients
    sizes = sorted(client.samples for client in clients)
    state = "registered" if is_registered else "not registered: repeat it with --register"
    lines = [f"{len(clients)} clients with {sizes[0]} to {sizes[-1]} samples ({staged.samples}), {state}"]
    lines += [f"first shard: {clients[0].data_loc}"]
    if staged.labels:
        lines.append("labels: " + ", ".join(f"{number} = {name}" for number, name in enumerate(staged.labels)))
    if sizes[0] == 1:
        lines.append(
            "a client has only one sample: BatchNorm can't train on it; --min-samples sets a floor (dirichlet)"
        )
    if staged.test:
        lines.append(f"test set: {staged.test_samples} samples that no client has")
    return "\n".join(lines) + "\n\nA job for them has these lines:\n\n" + tomli_w.dumps(job_tables(staged)).strip()


def job_tables(staged: "Staged") -> dict[str, dict[str, Any]]:
    """Return the tables of a job file that fit what was staged."""
    data = staged.data
    section = {"dataset": data.dataset, "clients": data.clients}
    tables: dict[str, dict[str, Any]] = {"data": section | ({"labels": list(data.labels)} if data.labels else {})}
    tables["cohort"] = {"clients": data.clients}
    tables["evaluation"] = {"data": staged.test} if staged.test else {"every": 0, "holdout": 0.2}
    if staged.has_numbers_to_predict:
        tables["training"] = {"loss": "mse"}
    return tables


def _stage_built_in(data: Data, to: str, platform: str, address: str, folder: Path | None, *, as_json: bool) -> None:
    from fedkeeper.services import provision

    records = provision.stage_dataset(data, platform=platform, shards_at=to, data_dir=folder)
    _register(address, records)
    text = "\n".join(f"{record.id}\t{record.samples}\t{record.data_loc}" for record in records)
    screen.show(_result(records, is_registered=bool(address)), text, as_json=as_json)


def _register(address: str, records: list[ClientRecord]) -> None:
    async def register() -> None:
        async with connect(address) as sdk:
            await sdk.register(records)

    # Only this runs in an event loop: there Ctrl-C would wait for the end of a download.
    if address:
        running.run(register(), stopped="stopped; the shards are written, but their clients may not be registered")
