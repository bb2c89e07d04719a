"""Nodes of a graph that say the same in turn: what `ping_pong` knows of models that call no tools.

A writer and its critic, a planner and its reviewer: each has a model say something, round after round. They get nowhere
where each of them says what it said before, and no tool brings anything new. Rows that are worked off one after the
other may well get the same answers: their requests are as long as the rows are, while in a circle nothing is added to
them but what the nodes have said.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from ts_langchain.fingerprint import mix, name_hash, text_hash
from ts_langchain.recent import Recent
from ts_langchain.rules.base import Claim, Finding
from ts_langchain.rules.effects import outcome

if TYPE_CHECKING:
    from ts_langchain.call import Call
    from ts_langchain.fingerprint import FreeText

MAX_NODES = 6
MAX_SEEN = 12
MAX_UNCLAIMED = 12
SIMILARITY = 0.85
"""Word-set similarity from which an answer is the same."""
LONG_CHARS = 100
"""Verdicts (`no`, `Looks good!`) may well be the same each time; one of the nodes has to say as much as that."""
SAME_LENGTH = 0.02
SAME_CHARS = 64


class Voice:
    """What a node said last, and how often in a row."""

    __slots__ = ("answer", "asks", "call_id", "chars", "count", "ended_at", "sent", "step", "text")

    def __init__(self, call: Call) -> None:
        self.count = 0
        self.asks = False  # for tools, which have run: that is no saying
        self.says(call)

    def says(self, call: Call) -> None:
        """Says it, or something else."""
        self.answer, self.chars = call.answer, call.answer_chars
        self.text: FreeText | None = None if call.tool_calls else call.answer_text
        self.hears(call)

    def hears(self, call: Call) -> None:
        """Notes its newest request."""
        self.count += 1
        self.call_id, self.sent = call.id, call.prompt.chars if call.prompt is not None else 0
        self.step, self.ended_at = call.step, call.ended_at

    def goes_on(self, call: Call) -> bool:
        """True if it speaks once more, and not beside itself: of rows that `Send` has worked off at once."""
        return (call.step != self.step or not call.step) and call.started_at >= self.ended_at

    def said(self, call: Call) -> bool:
        """True if it has said so before."""
        if call.answer == self.answer:
            return True
        text = None if call.tool_calls else call.answer_text
        return text is not None and self.text is not None and text.similarity(self.text) >= SIMILARITY


class Voices:
    """The nodes of one run, since anything new was said or found."""

    __slots__ = ("nodes", "root_id", "seen", "unclaimed")

    def __init__(self) -> None:
        self.root_id = ""
        self.nodes: Recent[int, Voice] = Recent()
        self.seen = array("q")  # what tools brought
        self.unclaimed: list[tuple[str, float]] = []

    def hear_tool(self, call: Call) -> None:
        """A tool or a retriever has answered."""
        if call.tool_call_id is not None:
            for voice in self.nodes.values():
                voice.asks |= voice.call_id == call.requested_by
        came = hash(outcome(call))
        if call.root_id == self.root_id and came not in self.seen:
            self.seen.append(came)
            del self.seen[:-MAX_SEEN]
            self._restart()

    def hear(self, call: Call, min_rounds: int) -> Finding | None:
        """A model has answered in a node."""
        if call.node is None or call.prompt is None or not call.answer_chars or call.purpose is not None:
            return None
        if call.root_id != self.root_id:
            self.root_id = call.root_id
            self.nodes.clear()
            self.unclaimed.clear()
        node = mix(name_hash(call.node), call.agent)
        voice = self.nodes.get(node)
        if voice is not None and voice.asks and call.tool_calls:
            return None
        self.nodes.pop(node, None)
        if voice is None or call.status != "ok":
            self._restart()
            voice = Voice(call)
        elif voice.goes_on(call) and voice.said(call) and self._nothing_added(call, voice):
            voice.hears(call)
            self.unclaimed.append((call.id, call.ended_at - call.started_at))
            del self.unclaimed[:-MAX_UNCLAIMED]
        else:
            self._restart()
            voice.count = 0
            voice.says(call)
        self.nodes[node] = voice
        self.nodes.limit(MAX_NODES)
        return self._judge(min_rounds)

    def _nothing_added(self, call: Call, voice: Voice) -> bool:
        """True if the request is as long as the one before, but for what was said in between."""
        sent = call.prompt.chars if call.prompt is not None else 0
        room = SAME_CHARS + voice.sent * SAME_LENGTH
        said = voice.chars + sum(other.chars for other in self.nodes.values())
        return -room <= sent - voice.sent <= said + room

    def _judge(self, min_rounds: int) -> Finding | None:
        stuck = [voice for voice in self.nodes.values() if voice.count >= min_rounds]
        if len(stuck) < 2 or max(voice.chars for voice in stuck) < LONG_CHARS:
            return None
        rounds = min(voice.count for voice in stuck)
        unclaimed, self.unclaimed = self.unclaimed, []
        return Finding(
            text_hash(self.root_id),
            f"{len(stuck)} nodes took turns for {rounds} rounds, and each said what it had said before.",
            claims=tuple(Claim(call_id) for call_id, _ in unclaimed),
            calls=tuple(call_id for call_id, _ in unclaimed),
            seconds=sum(seconds for _, seconds in unclaimed),
            severity="medium",
            confidence=0.8,
            evidence={"period": len(stuck), "rounds": rounds, "calls": sum(voice.count for voice in stuck)},
        )

    def _restart(self) -> None:
        """Something new was said or found: what was said is known from now on, and counts anew."""
        for voice in self.nodes.values():
            voice.count = 1
        self.unclaimed.clear()
