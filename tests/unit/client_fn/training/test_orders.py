"""An order is the same one after its way through the socket."""

import pytest

from client_fn.training import orders
from client_fn.training.orders import (
    Build,
    Evaluate,
    Evaluation,
    Learner,
    Model,
    Order,
    Score,
    Together,
    Train,
    Training,
)

OWN = Model("mine:Own", {"width": 3, "names": ["a", "ü"], "rate": 0.1, "more": {"x": None}})


@pytest.mark.parametrize(
    "order",
    [
        Build(OWN, seed=2**63 - 1),
        Build(Model(), seed=0),
        Train(OWN, Training("sgd", 0.1 + 0.2, 7, 3, "reset"), seed=5, device="cuda:1", left_s=12.25),
        Train(OWN, None, seed=5, device="cpu", left_s=0.0),
        Train(OWN, Training(), 5, "cpu", 1.5, strategy={"name": "fedprox", "mu": 0.1 + 0.2}, update="weights"),
        Evaluate(OWN, Evaluation(100, ("f1", "mine:Own"), 0.1), Learner("mine:How", {"deep": True})),
        Score(OWN, training=Training(loss="mse")),
        Together((Train(OWN, Training(), 5, "cuda", 1.5), Train(OWN, Training(), 6, "cuda", 1.5)), 7, graph=False),
    ],
)
def test_an_order_survives_its_encoding(order: Order | Together) -> None:
    assert orders.decode(orders.encode(order)) == order
