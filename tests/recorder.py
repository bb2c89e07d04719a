"""What tests look at runs with: a Sentinel that keeps its calls, and a LangSmith client that keeps its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from langsmith import Client

from ts_langchain import Sentinel, TokenSentinelHandler
from ts_langchain.replay import Replay

if TYPE_CHECKING:
    from ts_langchain.call import Call
    from ts_langchain.replay import Run


class Recorder(Sentinel):
    """A Sentinel that keeps the calls it is fed."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seen: list[Call] = []

    def observe(self, call: Call) -> None:
        self.seen.append(call)
        super().observe(call)

    def kinds(self) -> list[str]:
        return [c.kind for c in self.seen]

    def known(self) -> list[dict[str, Any]]:
        """All that is known of each call but its times, which two observers stamp some microseconds apart."""
        known = []
        for call in self.seen:
            fields = call._asdict()
            del fields["started_at"], fields["ended_at"]
            words = fields.pop("answer_text")
            fields["tags"] = set(call.tags)  # LangChain's tracer gives them in any order
            known.append({**fields, "words": words and words.__getstate__(), "cost": self.prices.cost(call)})
        return sorted(known, key=lambda c: str(c["id"]))


def recorded(**kwargs: Any) -> tuple[Recorder, TokenSentinelHandler]:
    recorder = Recorder()
    return recorder, TokenSentinelHandler(recorder, **kwargs)


def replay_of(*runs: Run) -> Recorder:
    """A Sentinel that has seen these runs, in order of their start."""
    recorder = Recorder()
    replay = Replay(recorder)
    for run in sorted(runs, key=lambda r: r.started_at):
        replay.feed(run)
    replay.finish()
    assert recorder.health().ok
    return recorder


class Wire(Client):
    """LangSmith's own client, with the wire cut: rows are kept as they would be sent."""

    def __init__(self) -> None:
        super().__init__(api_url="http://127.0.0.1:9", api_key="none", auto_batch_tracing=False)
        self.rows: dict[str, dict[str, Any]] = {}

    def create_run(self, name: str, inputs: Any, run_type: Any, **kwargs: Any) -> None:
        self.rows[str(kwargs["id"])] = {"name": name, "inputs": inputs, "run_type": run_type, **kwargs}

    def update_run(self, run_id: Any, **kwargs: Any) -> None:
        self.rows[str(run_id)].update({k: v for k, v in kwargs.items() if v is not None})

    def sent(self) -> list[dict[str, Any]]:
        from langsmith._internal._serde import dumps_json

        return [orjson.loads(dumps_json(row)) for row in self.rows.values()]
