"""Which models a job may name."""

import subprocess
import sys
from pathlib import Path

import pytest

from client_fn.code.allow import AllowList
from client_fn.errors import BadSettings, NotAllowed
from tests.support.paths import REPOSITORY


@pytest.mark.parametrize(
    ("type_", "entries", "modules"),
    [
        ("nn", (), ()),
        ("cnn", (), ()),
        ("mine:Model", (), ("mine",)),
        ("mine.nets.deep:Outer.Model", (), ("mine",)),
        ("a.b:Name", ("a.b",), ()),
        ("a.b.c:Name", ("a.b",), ()),
        ("a.b:Name", ("x", "a.b:Name"), ()),
        ("a.b:Name", ("a",), ()),
        ("_private:_Name", ("_private",), ()),
    ],
)
def test_what_is_allowed(type_: str, entries: tuple[str, ...], modules: tuple[str, ...]) -> None:
    AllowList(entries, modules).check(type_)


@pytest.mark.parametrize(
    ("type_", "entries", "modules"),
    [
        ("mine:Model", (), ()),
        ("mine2:Model", (), ("mine",)),
        ("other.mine:Model", (), ("mine",)),
        ("a:Name", ("a.b",), ()),
        ("a.bc:Name", ("a.b",), ()),
        ("a.b:Other", ("a.b:Name",), ()),
        ("a.b:Name.Inner", ("a.b:Name",), ()),
        ("a.b.c:Name", ("a.b:Name",), ()),
        ("a.b", ("a.b",), ()),
        ("mine.__main__:Model", ("mine",), ("mine",)),
        ("mine.__init__:Model", ("mine",), ("mine",)),
        ("__main__:Model", (), ("__main__",)),
        ("mine:__class__", ("mine",), ("mine",)),
        ("mine:Model.__init__", ("mine",), ("mine",)),
        ("mine:", ("mine",), ("mine",)),
        (":Model", ("mine",), ("mine",)),
        ("mine..nets:Model", ("mine",), ("mine",)),
        ("mine:a:b", ("mine",), ("mine",)),
        ("mine:class", ("mine",), ("mine",)),
        ("../mine:Model", ("mine",), ("mine",)),
        ("nn.Linear", (), ()),
        ("", ("mine",), ("mine",)),
    ],
)
def test_what_is_refused(type_: str, entries: tuple[str, ...], modules: tuple[str, ...]) -> None:
    with pytest.raises(NotAllowed) as refused:
        AllowList(entries, modules).check(type_)
    assert refused.value.type == type_
    assert not refused.value.retryable
    assert repr(type_) in str(refused.value)


def test_a_refusal_says_what_to_do_and_what_is_allowed() -> None:
    with pytest.raises(NotAllowed) as refused:
        AllowList(("torchvision", "torchvision"), ("utils", "mine")).check("timm.models:ResNet")
    assert str(refused.value) == (
        "'timm.models:ResNet' is not allowed here: `--allow timm.models:ResNet` or "
        "FEDKEEPER_ALLOW=timm.models:ResNet where it trains, or `--code DIR` if it is code of yours. "
        "Allowed now: nn, cnn, mine (code), utils (code), torchvision"
    )


@pytest.mark.parametrize(
    "entry", ["", "*", "a.*", "a.", ".a", "a:", ":A", "a:B:C", "a b", "a/b", "a.__main__", "import"]
)
def test_a_malformed_entry_is_refused(entry: str) -> None:
    with pytest.raises(BadSettings) as bad:
        AllowList(("fine", entry), ())
    assert bad.value.name == "FEDKEEPER_ALLOW"
    assert repr(entry) in str(bad.value)


def test_nothing_is_imported(tmp_path: Path) -> None:
    (tmp_path / "planted").mkdir()
    (tmp_path / "planted" / "__init__.py").write_text("raise SystemExit('imported')\n", encoding="utf-8")
    (tmp_path / "planted" / "nets.py").touch()
    program = (
        "from client_fn.code.allow import AllowList\n"
        "AllowList(['planted.nets'], ['planted']).check('planted.nets:Model')\n"
        "import sys; assert not [name for name in sys.modules if name.startswith('planted')]\n"
        "assert 'torch' not in sys.modules"
    )
    paths = f"{tmp_path}:{REPOSITORY}"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, env={"PYTHONPATH": paths})
