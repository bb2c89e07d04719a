"""What runs behind a door and has none of its own: an agent inside a tool or node, the retries of a call.

A door sees what is due before its own call, and no sooner. The agent behind it would go on until it is done. So the
door's handler looks at each model call inside: once the run is to end, it is held back before it is sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ts_langchain.capture import gate
from ts_langchain.capture.activate import active, around
from ts_langchain.capture.doors import door_of
from ts_langchain.capture.handler import TokenSentinelHandler
from ts_langchain.errors import CallRefused, Intervention, WasteBlocked
from ts_langchain.policy import ENDING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ts_langchain.capture.in_flight import Origin
    from ts_langchain.decision import Decision
    from ts_langchain.sentinel import Sentinel

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
        self.raise_error = True  # without it langchain-core logs what a hook raises and goes on

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        self.raise_error = True

    @property
    def vetoes(self) -> bool:
        return self in (active.get(), around.get())

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
            return WasteBlocked(incident)
    return CallRefused(decision)
