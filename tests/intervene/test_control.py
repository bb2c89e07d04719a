"""Kill switches and the remote policy: at the next call, and never in the way."""

from __future__ import annotations

import gzip
import json
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
from agents import ASK, DONE, agent
from langchain.agents import create_agent
from servers.redis import RedisServer, needs_redis
from servers.serving import Quiet, listening

from ts_langchain import CallRefused, Sentinel, TokenSentinelHandler, TokenSentinelMiddleware
from ts_langchain.budget_redis import connect
from ts_langchain.testing import ScriptedChatModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


pytestmark = pytest.mark.usefixtures("calm_collector")


def soon(true: Callable[[], object]) -> None:
    """Waits until something is so."""
    for _ in range(200):
        if true():
            return
        time.sleep(0.05)
    pytest.fail("it never became so")


def test_a_file_stops_everything_at_the_next_call(tmp_path: Path) -> None:
    switch = tmp_path / "stop"
    sentinel = Sentinel(policy={"kill_switch": {"file": str(switch)}})
    app, model = agent([DONE])
    handled: Any = {"callbacks": [TokenSentinelHandler(sentinel, mode="block")]}
    guarded = create_agent(model, [], middleware=[TokenSentinelMiddleware(sentinel)])
    app.invoke(ASK, handled)
    guarded.invoke(ASK)
    assert model.calls == 2
    switch.touch()
    for doomed in (lambda: app.invoke(ASK, handled), lambda: guarded.invoke(ASK)):
        with pytest.raises(CallRefused, match="kill switch"):
            doomed()
    assert model.calls == 2
    app.invoke(ASK, {"callbacks": [TokenSentinelHandler(sentinel)]})  # mode observe only watches
    switch.unlink()
    guarded.invoke(ASK)
    assert model.calls == 4
    assert sentinel.health().faults == {}


def test_a_dry_run_records_what_the_switch_would_have_stopped(tmp_path: Path) -> None:
    switch = tmp_path / "stop"
    switch.touch()
    middleware = TokenSentinelMiddleware(policy={"mode": "observe", "kill_switch": {"file": str(switch)}})
    model = ScriptedChatModel(script=[DONE])
    create_agent(model, [], middleware=[middleware]).invoke(ASK)
    assert model.calls == 1
    assert [(d.rule, d.outcome) for d in middleware.sentinel.decisions()] == [("kill_switch", "dry run")]


@needs_redis
def test_a_redis_key(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    sentinel = Sentinel(policy={"redis_url": server.url, "kill_switch": {"redis_key": "stop-all"}})
    app, _ = agent([DONE])
    handled: Any = {"callbacks": [TokenSentinelHandler(sentinel, mode="block")]}
    app.invoke(ASK, handled)
    connect(server.url).set("stop-all", "1")
    soon(lambda: sentinel.governor.control is not None and sentinel.governor.control.halted())
    with pytest.raises(CallRefused, match="stop-all"):
        app.invoke(ASK, handled)
    server.kill()
    soon(lambda: sentinel.health().faults)
    with pytest.raises(CallRefused):  # unreachable, it stays as it was
        app.invoke(ASK, handled)
    sentinel.close()


@contextmanager
def policy_server(answers: dict[str, Any]) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    asked: list[tuple[str, str | None]] = []

    class Handler(Quiet):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers.get("authorization")))
            self.send(int(answers.get("status", 200)), json.dumps(answers).encode())

    with listening(Handler) as port:
        yield f"http://127.0.0.1:{port}", asked


def test_a_remote_policy(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("TOKEN_SENTINEL_API_KEY", "tsk_secret_0123456789")
    answers: dict[str, Any] = {"policy_version": "v7", "ttl_seconds": 0.05, "budget_usd_per_session": 0.000001}
    with policy_server(answers) as (url, asked):
        sentinel = Sentinel(policy={"remote": {"endpoint": url, "project": "shop"}})
        control = sentinel.governor.control
        assert control is not None
        soon(lambda: control.version == "v7")
        assert asked[0] == ("/v1/policy?project=shop", "Bearer tsk_secret_0123456789")
        app, model = agent([DONE])
        handled: Any = {"callbacks": [TokenSentinelHandler(sentinel, mode="block")]}
        with pytest.raises(CallRefused, match="dollars per session"):
            app.invoke(ASK, handled)
        answers.update(budget_usd_per_session=None, kill_switch_active=True)
        soon(lambda: control.halted())
        with pytest.raises(CallRefused, match="remote policy"):
            app.invoke(ASK, handled)
        answers.update(kill_switch_active=False)
        soon(lambda: not control.halted())
        app.invoke(ASK, handled)
        answers.update(status=500, kill_switch_active=True)
        soon(lambda: sentinel.health().faults)
        app.invoke(ASK, handled)  # fails open
        assert model.calls == 2
        sentinel.close()
    assert "tsk_secret" not in caplog.text


@pytest.mark.parametrize("packed", [False, True])
def test_a_remote_policy_without_end_is_not_read(packed: bool) -> None:
    """It runs inside the app, whose memory it would fill."""
    sent: list[int] = []
    large = json.dumps({"policy_version": "x" * 64 * 1024 * 1024}).encode()
    pieces = [gzip.compress(large)] if packed else [large[:65_536]] * 1_000

    class Handler(Quiet):
        def do_GET(self) -> None:
            self.send_response(200)
            if packed:
                self.send_header("content-encoding", "gzip")
            self.end_headers()
            for piece in pieces:
                with suppress(OSError):
                    self.wfile.write(piece)
                    sent.append(len(piece))

    with listening(Handler) as port:
        sentinel = Sentinel(policy={"remote": {"endpoint": f"http://127.0.0.1:{port}", "ttl_seconds": 60}})
        soon(lambda: sentinel.health().faults)
        control = sentinel.governor.control
        assert control is not None
        assert control.version is None
        assert len(sent) < 1_000
        sentinel.close()


@pytest.mark.parametrize(
    "answer", [[], None, {"budget_usd_per_session": "x", "ttl_seconds": -1}, {"max_tokens_per_min": True}]
)
def test_nonsense_from_a_remote_policy_changes_nothing(answer: Any) -> None:
    sentinel = Sentinel(policy={"remote": {"endpoint": "http://127.0.0.1:9", "ttl_seconds": 60}})
    control = sentinel.governor.control
    assert control is not None
    assert control._take(answer, 60.0) == 60.0
    assert control.budgets == ()
    assert control.halted() is None
    sentinel.close()


@pytest.mark.parametrize("field", ["budget_usd_per_session", "max_tokens_per_min"])
@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e308, 10**400])
def test_a_remote_limit_beyond_all_numbers_is_none(field: str, value: Any) -> None:
    """JSON knows no bounds. What else the answer says holds, and calls are admitted as before."""
    sentinel = Sentinel(policy={"remote": {"endpoint": "http://127.0.0.1:9"}, "budgets": [{"calls": 1}]})
    control = sentinel.governor.control
    assert control is not None
    control._take({field: value, "policy_version": "v7", "kill_switch_active": True}, 60.0)
    assert (control.budgets, control.version) == ((), "v7")
    assert control.halted()
    control._take({field: value}, 60.0)
    app, model = agent([DONE])
    handled: Any = {"callbacks": [TokenSentinelHandler(sentinel, mode="block", session_id="s")]}
    app.invoke(ASK, handled)
    with pytest.raises(CallRefused, match="1 calls per session"):
        app.invoke(ASK, handled)
    assert model.calls == 1
    sentinel.close()
