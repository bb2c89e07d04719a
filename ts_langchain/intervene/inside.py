"""What runs behind a door and has none of its own: an agent inside a tool or node, the retries of a call.

A door sees what is due before its own call, and no sooner. The agent behind it would go on until it is done. So the
door's handler looks at each model call inside: once the run is to end, it is held back before it is sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, ToolMessage

from ts_langchain.capture import gate
from ts_langchain.capture.activate import is_seeing
from ts_langchain.capture.context import agent_of
from ts_langchain.capture.doors import door_of
from ts_langchain.capture.handler import TokenSentinelHandler
from ts_langchain.errors import CallRefused, Intervention, WasteBlocked
from ts_langchain.intervene.actions import MARK
from ts_langchain.policy import ENDING
from ts_langchain.recent import Recent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_core.messages import BaseMessage

    from ts_langchain.capture.in_flight import Origin
    from ts_langchain.decision import Decision
    from ts_langchain.sentinel import Sentinel

MAX_SENT = 1_000
OVERRULED = "another middleware, nearer to the model, chose another model: put it in front of this one"


class DoorHandler(TokenSentinelHandler):
    """The handler of a door. Watches, and vetoes what the door cannot see.

    Only while it is its Sentinel's innermost door around a call: that door catches what is raised and ends the run as
    decided. Notes, reuse and other models are for a call's own door.

    Args:
        sentinel: The `Sentinel` to feed.
    """

    def __init__(self, sentinel: Sentinel) -> None:
        super().__init__(sentinel)
        self._sent: Recent[tuple[str, int], dict[str, int | None]] = Recent()
        self.raise_error = True  # without it langchain-core logs what a hook raises and goes on

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        self._sent = Recent()
        self.raise_error = True

    @property
    def vetoes(self) -> bool:
        return is_seeing(self)

    def _model_start(
        self,
        serialized: Mapping[str, Any] | None,
        messages: Sequence[Any],
        run_id: Any,
        parent_run_id: Any,
        tags: list[str] | None,
        metadata: Mapping[str, Any] | None,
        kwargs: Mapping[str, Any],
        *,
        completes: bool = False,
    ) -> None:
        through = gate.let_through(self.sentinel, run_id)
        if not through and self.vetoes:
            try:
                self._check(run_id, parent_run_id, tags, metadata or {})
            except Intervention:
                gate.forget(self.sentinel, run_id)
                raise
        super()._model_start(serialized, messages, run_id, parent_run_id, tags, metadata, kwargs, completes=completes)
        self._see_whether_chosen(run_id, through)
        self._note_sent(run_id, messages, metadata or {})

    def _note_sent(self, run_id: Any, messages: Sequence[Any], metadata: Mapping[str, Any]) -> None:
        """Notes how much of each tool's result goes along: other middleware may leave results out of a request."""
        started = self._started.get(run_id)
        if started is None or not self._reuses:
            return
        with self.sentinel.faults.fail_open("intervene: sent"):
            self._sent[started.origin.session_id, agent_of(metadata)] = {
                m.tool_call_id: None if MARK in m.response_metadata else len(str(m.content))
                for m in messages
                if isinstance(m, ToolMessage)
            }
            self._sent.limit(MAX_SENT)

    def sees_all(self, messages: Sequence[BaseMessage], session_id: str, task: str | None) -> bool:
        """True unless the last request of an agent told less of some tool's result than its state does.

        What was left out by `trim` does not count: that leaves in what `reuse` refers to.

        Args:
            messages: The agent's state.
            session_id: The conversation.
            task: A task of the agent, as in `Here`.
        """
        sent = self._sent.get((session_id, agent_of({"langgraph_checkpoint_ns": task})))
        if sent is None:
            return True
        asked = max((n for n, m in enumerate(messages) if isinstance(m, AIMessage)), default=0)
        for message in messages[:asked]:
            if isinstance(message, ToolMessage):
                told = sent.get(message.tool_call_id, 0)
                if told is not None and told < len(str(message.content)):
                    return False
        return True

    @property
    def _reuses(self) -> bool:
        policy = self.sentinel.governor.policy
        rules = [policy.default, *policy.rules.values()] if policy is not None else []
        return any(step.do == "reuse" for rule in rules for step in rule.steps)

    def _see_whether_chosen(self, run_id: Any, through: bool) -> None:
        """What another middleware, nearer to the model, has chosen undoes a `downgrade`.

        It may ask a model of its own first; and what it falls back on afterwards undoes nothing.
        """
        door, started = door_of(self.sentinel), self._started.get(run_id)
        if door is None or door.chosen is None or started is None or started.model is None:
            return
        for decision in door.chosen.decisions:
            if started.model == door.chosen.model:
                if decision.why == OVERRULED:
                    self.sentinel.governor.settle(decision, "done")
            elif through:
                self.sentinel.governor.settle(decision, "skipped", OVERRULED)

    def _check(
        self, run_id: Any, parent_run_id: Any, tags: Sequence[str] | None, metadata: Mapping[str, object]
    ) -> None:
        """Raises if the call is to be held back. Fails open."""
        decision = None
        seen = self._started.get(run_id)  # by another handler of this Sentinel, which let it pass
        with self.sentinel.faults.fail_open("intervene: inside"):
            origin = seen.origin if seen is not None else self._origin(run_id, parent_run_id, metadata, tags)
            decision = self._ending(origin)
        if decision is not None:
            raise self._held_back(decision)
        if seen is not None and self.sentinel.governor.admits:
            gate.admit_again(self.sentinel, run_id, seen, force=not self.vetoes)

    def _ending(self, origin: Origin) -> Decision | None:
        """The decision in force that ends the run."""
        due = self.sentinel.due(origin.session_id, origin.root_id, self.clock())
        return next((d for d in due if d.action in ENDING), None)

    def _held_back(self, decision: Decision) -> Intervention:
        """What is raised. It is settled by the door, which answers for the call, or lets a `block` out."""
        return blocked(self.sentinel, decision) if decision.action == "block" else CallRefused(decision)


def blocked(sentinel: Sentinel, decision: Decision) -> Intervention:
    """What `block` raises: with the incident, where it is about one that is known."""
    for incident in sentinel.incidents(decision.session_id):
        if incident.id == decision.incident_id:
            return WasteBlocked(incident, by_policy=True)
    return CallRefused(decision)
