"""One direction, no way back: what reads and detects knows nothing of what acts, stores, shows or imports."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import ts_langchain

PACKAGE = Path(ts_langchain.__file__).parent
BEHIND = ("backtest", "cli", "database", "deliver", "history", "intervene", "ledger", "replay", "report", "testing")
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "demo_data" not in path.parts)
IN_FRONT = [path for path in MODULES if path.relative_to(PACKAGE).parts[0].removesuffix(".py") not in BEHIND]


def imported(path: Path) -> set[str]:
    """All that a module imports of this distribution, in functions and for types alone as well."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.split(".")[0] in ("ts_langchain", "ts_importers")}


def behind(name: str) -> bool:
    """True for a module to the right of the Sentinel."""
    return name.startswith(tuple(f"ts_langchain.{part}" for part in BEHIND))


@pytest.mark.parametrize("path", [p for p in IN_FRONT if p.parent != PACKAGE or p.stem[0] != "_"], ids=lambda p: p.stem)
def test_nothing_imports_from_the_right(path: Path) -> None:
    assert not {name for name in imported(path) if behind(name)}


def test_importers_are_found_not_imported() -> None:
    assert not {path.name for path in MODULES for name in imported(path) if name.startswith("ts_importers")}


def test_the_check_sees_what_it_forbids() -> None:
    assert behind("ts_langchain.intervene.core")
    assert "ts_langchain.ledger" in imported(PACKAGE / "history.py")
    assert any(path.name == "sentinel.py" for path in IN_FRONT)
