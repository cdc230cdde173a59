"""Four shops with messages of customers, each for one of four desks. The shops differ in what their customers want."""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

DESKS = {
    "billing": "invoice charged twice refund amount card bank price discount receipt tax payment overdue",
    "delivery": "parcel courier late address arrived box tracking truck shipped door lost week",
    "repair": "broken screen battery noise cracked button warranty stuck leaks spare screw hot",
    "account": "password login email locked reset profile name delete settings newsletter phone code",
}
COMMON = (
    "the a my your it is was and but i we you please still again since today yesterday hello thanks help need want "
    "have has had can could not very all some when why how this that order shop customer question problem answer"
)


def write(rng: np.random.Generator, desk: int, of: Mapping[str, str] = DESKS) -> str:
    """Return a message of 5 to 30 words; a third are of its desk, a few of another one.

    Args:
        rng: draws the words.
        desk: the desk's number.
        of: each desk's words.
    """
    words, common, desks = [], COMMON.split(), [text.split() for text in of.values()]
    for chance in rng.random(rng.integers(5, 31)):
        other = desks[rng.integers(len(desks))]
        words.append(rng.choice(desks[desk] if chance < 0.35 else other if chance < 0.45 else common))
    return " ".join(words)


def write_file(file: Path, rng: np.random.Generator, number: int, shares: np.ndarray) -> None:
    """Write a CSV file with columns `text` and `desk`.

    Args:
        file: the file.
        rng: draws the messages.
        number: how many.
        shares: probability of each desk.
    """
    desks = rng.choice(len(DESKS), number, p=shares)
    with file.open("w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["text", "desk"])
        rows.writerows((write(rng, desk), list(DESKS)[desk]) for desk in desks)


def make(folder: Path, similarity: float = 1.0) -> None:
    """Write the shards and the test set.

    Args:
        folder: for the files.
        similarity: of the shops: the parameter of the Dirichlet distribution of their desks.
    """
    rng = np.random.default_rng(0)
    for shop, shares in enumerate(rng.dirichlet([similarity] * len(DESKS), 4), 1):
        write_file(folder / f"shop-{shop}.csv", rng, 250, shares)
    write_file(folder / "test.csv", rng, 400, np.full(len(DESKS), 1 / len(DESKS)))
