"""Optimizers step without an import of torch's compiler, to the same bits, and are compiled as before."""

import subprocess
import sys
from typing import Final

import pytest

from tests.support.program import WITHIN_S

PROGRAM: Final = """
import sys
import torch
from client_fn.training import uncompiled
from client_fn.training.optimizers import CLASSES

def trained(class_, compiled=False, **args):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 2, bias=False)
    optimizer = class_(model.parameters(), lr=0.01, **args)
    def backward():
        optimizer.zero_grad()
        loss = model(torch.ones(3, 4)).square().sum()
        loss.backward()
        return loss
    step = torch.compile(optimizer.step, backend="eager") if compiled else optimizer.step
    for _ in range(3):
        backward()
        step(backward) if class_ is torch.optim.LBFGS else step()
        optimizer.load_state_dict(optimizer.state_dict())
    return model.weight.detach().numpy().tobytes()

def all_trained():
    kinds = [(class_, {}) for name, class_ in sorted(CLASSES.items()) if name != "sparseadam"]
    kinds += [(torch.optim.Adam, {"fused": True}), (torch.optim.SGD, {"foreach": True})]
    return [trained(class_, **args) for class_, args in kinds]

uncompiled.prepare()
uncompiled.prepare()
found = all_trained()
assert "torch._dynamo" not in sys.modules
compiled = trained(torch.optim.SGD, compiled=True)
assert "torch._dynamo" in sys.modules
assert all_trained() == found
assert trained(torch.optim.SGD) == compiled
print(len(found))
"""


@pytest.mark.slow
@pytest.mark.torch
def test_optimizers_step_to_the_same_bits_and_import_no_compiler() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=WITHIN_S, check=False)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 12
