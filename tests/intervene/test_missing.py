"""Doors without the package that they need."""

from __future__ import annotations

import subprocess
import sys


def test_middleware_without_langchain_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['langchain'] = None\n"  # as where it is not installed
        "try:\n    from ts_langchain import TokenSentinelMiddleware\n"
        "except ModuleNotFoundError as error: print(error)\n"
        "from ts_langchain import TokenSentinelHandler, guard\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "TokenSentinelMiddleware needs langchain 1.0 or newer: pip install 'ts-langchain[agents]'\n"
