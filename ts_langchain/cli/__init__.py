"""The `ts-langchain` command."""

from __future__ import annotations


def main() -> None:
    """Runs the command."""
    import sys

    try:
        from ts_langchain.cli.app import run

        run()
    except KeyboardInterrupt:  # loading, and making the commands, takes a second or two
        sys.exit(130)
