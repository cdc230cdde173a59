"""Models whose code does what it should not, at a place that the test chooses.

They are for 8x8 images in ten classes. Each is a module of its own, so that it can fail when it is imported.
"""

import contextlib
import os
from pathlib import Path
from typing import Final, Literal

from client_fn.trainer.group import MARK

Place = Literal["import", "constructor", "forward", "evaluation"]

PLACES: Final[tuple[Place, ...]] = ("import", "constructor", "forward", "evaluation")

ACTIONS: Final = {
    "exits": "sys.exit(3)",
    "ends": "print('bye'); os._exit(3)",
    "ends_well": "os._exit(0)",
    "hangs": "while True: time.sleep(0.01)",
    "hangs_on": "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)",
    "segfaults": "ctypes.string_at(0)",
    "aborts": "os.abort()",
    "allocates": "HELD.append(bytearray(1 << 40))",
    "allocates_tensors": "HELD.append(torch.ones(1 << 38))",
    "allocates_in_children": "[in_a_child(hold_memory) for _ in range(6)]; time.sleep(3600)",
    "writes_garbage": "on_each_descriptor(lambda file: os.write(file, b'garbage')); time.sleep(3600)",
    "closes_descriptors": "on_each_descriptor(os.close)",
    "kills_its_parent": "os.kill(os.getppid(), 9); time.sleep(3600)",
    "stops_its_parent": "os.kill(os.getppid(), signal.SIGSTOP)",
    "raises": "raise KeyError('Meier, Hans')",
    "interrupts": "raise KeyboardInterrupt",
    "recurses": "act()",
    "prints": "print('x' * 2_000_000)",
    "starts_threads": "[threading.Thread(target=time.sleep, args=(3600,)).start() for _ in range(3)]",
    "forks": "in_a_child(wait)",
    # It waits until the first child is gone: one that is still in the model's session ends with the order.
    "forks_away": "os.waitpid(in_a_child(lambda: (os.setsid(), in_a_child(wait), os._exit(0))), 0)",
    "starts_without_mark": "subprocess.Popen(SLEEP, env={}, start_new_session=True)",
    "starts_without_mark_and_hangs": "subprocess.Popen(SLEEP, env={}, start_new_session=True); time.sleep(3600)",
    "nothing": "pass",
}
"""What they do, as Python."""

TEMPLATE: Final = """
import ctypes, os, signal, subprocess, sys, threading, time
import torch
from torch import nn

HELD = []
SLEEP = ["/bin/sleep", "{sleep_s}"]

def in_a_child(do):
    pid = os.fork()
    if not pid:
        do()
        os._exit(0)
    return pid

def wait():
    while True: time.sleep(1)

def hold_memory():
    HELD.append(b"x" * (200 << 20))
    wait()

def on_each_descriptor(do):
    for name in os.listdir("/proc/self/fd"):
        try: do(int(name))
        except OSError: pass

def act():
    {action}

{at_import}

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)
        {at_construction}

    def forward(self, x):
        if {in_forward}: act()
        return self.layer(x.flatten(1))
"""

SLEEP_S: Final = 100_000 + os.getpid()
"""How long their programs sleep: by this number a test finds those of its own process."""


def write(folder: Path, action: str, place: Place) -> str:
    """Write a model's module into a folder and return the model's type.

    Args:
        folder: the user's code.
        action: one of `ACTIONS`.
        place: where it does that.
    """
    name = f"bad_{action}_at_{place}"
    text = TEMPLATE.format(
        action=ACTIONS[action],
        sleep_s=SLEEP_S,
        at_import="act()" if place == "import" else "",
        at_construction="act()" if place == "constructor" else "",
        in_forward={"forward": "self.training", "evaluation": "not self.training"}.get(place, "False"),
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text(text)
    return f"{name}:Model"


def line_of(action: str, place: Place) -> int:
    """The line of `ACTIONS[action]` in its module."""
    del action, place
    return TEMPLATE[: TEMPLATE.index("{action}")].count("\n") + 1


def left_running(mark: str, variable: str = MARK) -> list[int]:
    """Return the ids of the living processes that a trainer and its models have started.

    Args:
        mark: value of a variable that they carry.
        variable: its name.
    """
    text, program = f"{variable}={mark}".encode(), str(SLEEP_S).encode()
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and (
                text in (entry / "environ").read_bytes().split(b"\0") or program in (entry / "cmdline").read_bytes()
            ):
                found.append(int(entry.name))
    return found
