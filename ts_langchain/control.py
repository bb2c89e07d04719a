"""What is decided outside of this process: a kill switch, and a remote policy.

Neither may ever slow a call down or break it: a file is looked at, everything else is asked for in the background.
"""

from __future__ import annotations

import json
import os
import threading
from typing import TYPE_CHECKING, Any

from ts_langchain.policy import MAX_COUNT, MAX_USD, Budget

if TYPE_CHECKING:
    from ts_langchain.health import Faults
    from ts_langchain.policy import Policy

POLL_SECONDS = 1.0
MOST_BYTES = 65_536
"""Of a remote policy. It is asked for unpacked: a few packed bytes may fill the app's memory."""


class Control:
    """Watches the kill switch and the remote policy of a policy.

    Args:
        policy: What to watch.
        faults: Counts what goes wrong.

    Attributes:
        budgets: Budgets that the remote policy asks for; empty without one.
        version: Version of the remote policy, None until it has answered.
    """

    def __init__(self, policy: Policy, faults: Faults) -> None:
        self._policy = policy
        self._faults = faults
        self._file = os.fspath(policy.kill_switch.file) if policy.kill_switch.file is not None else None
        self._by_redis = False
        self._by_remote = False
        self._stop = threading.Event()
        self.budgets: tuple[Budget, ...] = ()
        self.version: str | None = None
        self._threads: list[threading.Thread] = []
        self._watch()

    def after_fork(self) -> None:
        """Watches in a forked process as well: the threads have stayed behind."""
        closed = self._stop.is_set()
        self._stop, self._threads = threading.Event(), []
        if closed:
            self._stop.set()
        else:
            self._watch()

    def halted(self) -> str | None:
        """Why nothing may be sent now; None if calls may go."""
        if self._file is not None and os.path.exists(self._file):  # noqa: PTH110 - a third of the cost, on each call
            return f"The kill switch is on: the file {self._file} exists."
        if self._by_redis:
            return f"The kill switch is on: the Redis key {self._policy.kill_switch.redis_key} is set."
        if self._by_remote:
            return "The kill switch of the remote policy is on."
        return None

    def close(self) -> None:
        """Stops watching."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=2.0)

    def _watch(self) -> None:
        if self._policy.kill_switch.redis_key is not None and self._policy.redis_url is not None:
            self._start(self._watch_redis)
        if self._policy.remote is not None:
            self._start(self._watch_remote)

    def _start(self, watch: Any) -> None:
        thread = threading.Thread(target=watch, name="ts-langchain-control", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _watch_redis(self) -> None:
        from ts_langchain.budget_redis import connect

        client = None
        while not self._stop.is_set():
            try:
                client = client or connect(self._policy.redis_url or "")
                self._by_redis = bool(client.exists(self._policy.kill_switch.redis_key))
            except Exception as error:  # noqa: BLE001 - an unreachable switch is left as it was
                self._faults.record("kill switch", error)
            self._stop.wait(POLL_SECONDS)

    def _watch_remote(self) -> None:
        import httpx2

        remote = self._policy.remote
        assert remote is not None  # noqa: S101 - the thread is only started with one
        wait = remote.ttl_seconds
        while not self._stop.is_set():
            try:
                key = os.environ.get(remote.key_variable)
                with httpx2.stream(
                    "GET",
                    f"{remote.endpoint.rstrip('/')}/v1/policy",
                    params={"project": remote.project},
                    headers={"accept-encoding": "identity"} | ({"authorization": f"Bearer {key}"} if key else {}),
                    timeout=10.0,
                ) as answer:
                    answer.raise_for_status()
                    content = b""
                    for piece in answer.iter_raw():
                        content += piece
                        if len(content) > MOST_BYTES:
                            msg = "a policy of more than 64 KB"
                            raise ValueError(msg)
                wait = self._take(json.loads(content), remote.ttl_seconds)
            except Exception as error:  # noqa: BLE001 - an unreachable policy stays as it was
                self._faults.record("remote policy", error)
            self._stop.wait(wait)

    def _take(self, answer: Any, default: float) -> float:
        """Takes an answer over. Returns the seconds until the next question."""
        if not isinstance(answer, dict):
            return default
        budgets = []
        usd, rate = answer.get("budget_usd_per_session"), answer.get("max_tokens_per_min")
        if isinstance(usd, (int, float)) and not isinstance(usd, bool) and 0 < usd <= MAX_USD:
            budgets.append(Budget(name="remote: dollars per session", per="session", usd=float(usd)))
        if isinstance(rate, int) and not isinstance(rate, bool) and 0 < rate <= MAX_COUNT:
            budgets.append(Budget(name="remote: tokens per minute", per="project", tokens_per_minute=rate))
        self.budgets = tuple(budgets)
        self._by_remote = answer.get("kill_switch_active") is True
        self.version = str(answer.get("policy_version"))
        ttl = answer.get("ttl_seconds")
        return float(ttl) if isinstance(ttl, (int, float)) and 0 < ttl <= 86_400 else default
