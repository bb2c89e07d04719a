"""A handler made before a fork works in the child: no lock stays held, and what was watched is watched on."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

HELD = """
import os, signal, threading
from agents import ASK, DONE, agent
from langchain_core.tools import tool
from ts_langchain import Sentinel, TokenSentinelHandler
from ts_langchain.capture.tools import _TOOLSETS
from ts_langchain.rules import RULES, Rule
from ts_langchain.testing import call_tool

class Broken(Rule):
    name, specificity, kinds, suggestion = "broken", 1, frozenset({"model"}), "Mend it."
    def new_state(self):
        return None
    def observe(self, call, state):
        return None
    def after_fork(self):
        raise RuntimeError("no")

sentinel = Sentinel(rules=[Broken, *RULES], policy={"budgets": [{"calls": 100}]})
handler = TokenSentinelHandler(sentinel, mode="block")
config = {"callbacks": [handler], "configurable": {"thread_id": "t"}}
agent([DONE])[0].invoke(ASK, config)
session = sentinel.get("t")
rule = next(r for r in sentinel.rules if r.name == "duplicate_work")
held = threading.Event()

def hold():
    budget = sentinel.governor.budgets._memory._lock
    with sentinel._lock, session.lock, sentinel.faults._lock, rule._lock, _TOOLSETS._lock, budget:
        held.set()
        threading.Event().wait()

threading.Thread(target=hold, daemon=True).start()
held.wait()
child = os.fork()
if not child:
    signal.alarm(20)  # a lock that nobody gives back
    agent([call_tool("fetch_page", url="u"), DONE])[0].invoke(ASK, config)
    health = sentinel.health()
    counted = (health.calls, sentinel.totals("t").calls, sum(health.faults.values()))
    os._exit(0 if counted == (4, 4, 1) else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

WATCHED = """
import os, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import threading
from ts_langchain import Sentinel

active = False

class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass
    def do_GET(self):
        body = b'{"ttl_seconds": 0.05, "kill_switch_active": %s}' % (b"true" if active else b"false")
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
remote = {"endpoint": f"http://127.0.0.1:{server.server_port}", "project": "p"}
kept, closed = (Sentinel(policy={"remote": remote}) for _ in range(2))
while kept.governor.control.version is None or closed.governor.control.version is None:
    time.sleep(0.01)
closed.close()
child = os.fork()
if not child:
    for _ in range(400):
        if kept.governor.control.halted():
            os._exit(0 if not closed.governor.control._threads else 2)
        time.sleep(0.05)
    os._exit(1)
active = True
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize("script", [HELD, WATCHED], ids=["no lock stays held", "switches are watched on"])
def test_in_a_forked_process(script: str, tmp_path: Path) -> None:
    path = tmp_path / "forks.py"
    path.write_text(script)
    here = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", path],
        env={**os.environ, "PYTHONPATH": here},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
