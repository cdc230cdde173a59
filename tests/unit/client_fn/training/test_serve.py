"""The trainer's loop."""

import socket

import pytest

from client_fn.training import descendants, graphs, packets, serve

pytestmark = pytest.mark.torch


def test_a_process_that_is_harmed_answers_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descendants, "adopt_orphans", lambda: None)
    worker, trainer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with worker, trainer:
        trainer.settimeout(0.01)
        packets.send(worker, {"ask": "installed", "order": "1"})
        with pytest.raises(TimeoutError):  # it waits for the next order
            serve.serve(trainer)
        monkeypatch.setattr(graphs, "_harmed", ["a capture failed"])
        packets.send(worker, {"ask": "installed", "order": "2"})
        serve.serve(trainer)
        trainer.close()
        said = []
        while (packet := packets.receive(worker)) is not None:
            said.append(f"{packet[0]['say']} {packet[0]['order']}")
    assert said == ["ready ", "taken 1", "done 1", "ready ", "taken 2", "done 2"]
