"""A Sentinel that keeps the calls it is fed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ts_langchain import Sentinel, TokenSentinelHandler

if TYPE_CHECKING:
    from ts_langchain.call import Call


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
