"""Flower's app without training: each client returns at once an update of the model's size.

It runs in Flower's own environment, and imports nothing of ours.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

Shapes = list[list[int]]
Between = Callable[[int, float], None]
"""Called before the first round with 0, and after each round with its number and its seconds."""


def train(message: Message, context: Context) -> Message:  # noqa: ARG001 (Flower's arguments)
    """Return an update. With `own` in the configuration each client's has bytes of its own.

    Args:
        message: holds the round's model.
        context: of the client.
    """
    arrays = message.content["arrays"]
    if message.content["config"]["own"]:
        factor = np.float32(1.0 + 1e-6 * (message.metadata.dst_node_id % 1000))
        arrays = ArrayRecord([array * factor for array in arrays.to_numpy_ndarrays()])
    metrics = MetricRecord({"num-examples": 600})
    return Message(content=RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


def client_app() -> ClientApp:
    """Return the clients."""
    made = ClientApp()
    made.train()(train)
    return made


def run_rounds(grid: Grid, shapes: Shapes, clients: int, rounds: int, between: Between, *, own: bool) -> None:
    """Run rounds of FedAvg without evaluation.

    Args:
        grid: reaches the clients.
        shapes: shapes of the model's tensors, in float32.
        clients: number of clients; all are in each round.
        rounds: number of rounds.
        between: called before the first round and after each.
        own: whether each client's update has bytes of its own, or all return the model as it came.
    """
    from flwr.app import ConfigRecord

    generator = np.random.default_rng(1)
    model = ArrayRecord([generator.standard_normal(shape, dtype=np.float32) for shape in shapes])
    since_s = [0.0]

    def evaluate(round_: int, arrays: ArrayRecord) -> None:  # noqa: ARG001 (Flower's arguments)
        between(round_, time.perf_counter() - since_s[0])
        since_s[0] = time.perf_counter()

    # Flower calls `evaluate_fn` after each round's aggregation: the seconds are those of all that it does in a round.
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients)
    config = ConfigRecord({"own": own})
    strategy.start(grid, model, num_rounds=rounds, train_config=config, evaluate_fn=evaluate)


def server_app() -> ServerApp:
    """Return the server of a deployment, which reads what to do from the environment."""
    made = ServerApp()

    def main(grid: Grid, context: Context) -> None:  # noqa: ARG001 (Flower's arguments)
        order: dict[str, Any] = json.loads(os.environ["FLOWER_NOOP"])

        def between(round_: int, seconds: float) -> None:
            with open(order["into"], "a", encoding="utf-8") as file:  # noqa: PTH123 (as short as it gets)
                file.write(json.dumps({"round": round_, "seconds": seconds}) + "\n")

        run_rounds(grid, order["shapes"], order["clients"], order["rounds"], between, own=order["own"])

    made.main()(main)
    return made


def say(**facts: object) -> None:
    """Print a line of JSON.

    Args:
        facts: what it says.
    """
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


# `flwr run` looks for assignments of a single name.
server = server_app()
client = client_app()
