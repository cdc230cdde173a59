"""The user's code of a trial: a tiny model that misbehaves once, at a place and a moment that the trial chooses."""

from pathlib import Path
from typing import Final, Literal

Place = Literal["import", "constructor", "training", "judgement"]

TYPE: Final = "chaos_model:Model"
"""The model's name in a job."""

ACTIONS: Final = {
    "exits": "sys.exit(3)",
    "ends": "os._exit(3)",
    "segfaults": "ctypes.string_at(0)",
    "hangs": "time.sleep(3600)",
    "forks and hangs": "os.fork() or time.sleep(3600); time.sleep(3600)",
    "forks and ends": "os.fork() or time.sleep(3600); os._exit(0)",
    "takes memory": "HELD.append(bytearray(1 << 40))",
    "takes memory in children": "[os.fork() or (HELD.append(b'x' * (300 << 20)), time.sleep(3600)) for _ in range(5)]",
    "writes garbage": "on_each_descriptor(lambda file: os.write(file, b'garbage')); time.sleep(3600)",
    "closes descriptors": "on_each_descriptor(os.close)",
    "kills its parent": "os.kill(os.getppid(), 9); time.sleep(3600)",
}
"""What it does, as Python."""

_CODE: Final = """
import ctypes, os, pathlib, sys, time
import torch
from torch import nn

HELD = []
WISHES = pathlib.Path({wishes!r})
ACTIONS = {actions!r}

def on_each_descriptor(do):
    for name in os.listdir("/proc/self/fd"):
        try: do(int(name))
        except OSError: pass

def misbehave_at(place):
    try:
        wish = WISHES / place
        action = wish.read_text()
        wish.unlink()  # whoever removes it does it
    except FileNotFoundError:
        return
    exec(ACTIONS[action])

misbehave_at("import")

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        misbehave_at("constructor")
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        misbehave_at("training" if self.training else "judgement")
        return self.layer(x.flatten(1))
"""


def write(folder: Path, wishes: Path) -> None:
    """Write the model's module.

    Args:
        folder: the user's code.
        wishes: folder through which a trial says what the model should do.
    """
    folder.mkdir()
    wishes.mkdir()
    (folder / "chaos_model.py").write_text(_CODE.format(wishes=str(wishes), actions=ACTIONS))


def misbehave(wishes: Path, place: Place, action: str) -> None:
    """Let the model misbehave the next time that it is at a place, once.

    Args:
        wishes: as for `write`.
        place: where.
        action: one of `ACTIONS`.
    """
    new = wishes / f"{place}.new"
    new.write_text(action)
    new.rename(wishes / place)
