"""The `ts-langchain` command."""

from __future__ import annotations


def main() -> None:
    """Runs the command."""
    from ts_langchain.cli.app import run

    run()
