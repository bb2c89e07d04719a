"""Whether a model request may be sent, asked by the handler before it is: open incidents, kill switches, budgets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ts_langchain.budget import Request
from ts_langchain.capture.doors import reserved_by
from ts_langchain.capture.parameters import estimated_input
from ts_langchain.errors import CallRefused, Intervention, WasteBlocked

if TYPE_CHECKING:
    from ts_langchain.budget import Reservation
    from ts_langchain.capture.in_flight import Started
    from ts_langchain.sentinel import Sentinel


def ask(sentinel: Sentinel, run_id: Any, started: Started, *, blocks: bool, force: bool) -> None:
    """Raises if the call may not be sent. Fails open.

    Args:
        sentinel: Whose incidents and budgets count.
        run_id: The call.
        started: What it asks for.
        blocks: A severe incident holds it back (mode `block`).
        force: Budgets and kill switches count it, and let it through.

    Raises:
        WasteBlocked: An incident stands against it.
        CallRefused: A budget or a kill switch does.
    """
    try:
        if blocks:
            _veto(sentinel, started)
        if sentinel.governor.admits:
            _admit(sentinel, run_id, started, force=force)
    except Intervention:
        _goes_on_there(sentinel, started)
        raise
    except Exception as error:  # noqa: BLE001 - it is sent, and counts as every other
        sentinel.faults.record("handler: admission", error)


def ask_again(sentinel: Sentinel, run_id: Any, seen: Started, *, force: bool) -> None:
    """Holds a call back that a handler which only observes has let pass. Raises as `ask` does."""
    try:
        _veto(sentinel, seen)
        if sentinel.governor.admits and not let_through(sentinel, run_id):
            admit_again(sentinel, run_id, seen, force=force)
    except Intervention:
        forget(sentinel, run_id)
        raise


def let_through(sentinel: Sentinel, run_id: Any) -> bool:
    """True for the call that a door around it has reserved for and let through."""
    return _taken(sentinel, run_id) is not None


def admit_again(sentinel: Sentinel, run_id: Any, seen: Started, *, force: bool) -> None:
    """Asks the budgets once more for a call that was let through by force."""
    give_back(sentinel, run_id)
    _admit(sentinel, run_id, seen, force=force)


def forget(sentinel: Sentinel, run_id: Any) -> None:
    """Forgets a call that is held back after it was seen: LangChain tells nobody of its end."""
    seen = sentinel.in_flight.started.pop(run_id, None)
    give_back(sentinel, run_id)
    if seen is not None:
        _goes_on_there(sentinel, seen)


def give_back(sentinel: Sentinel, run_id: Any) -> None:
    """Settles what was reserved for a call that is not made."""
    reservation = sentinel.in_flight.reservations.pop(run_id, None)
    if reservation is not None:
        sentinel.governor.book(reservation, None)


def _veto(sentinel: Sentinel, started: Started) -> None:
    """Raises if the session is in trouble."""
    origin = started.origin
    session = sentinel.get(origin.session_id)
    incident = sentinel.veto(session, origin.root_id, started.turn, started.request, started.started_at)
    if incident is not None:
        raise WasteBlocked(incident, by_policy=sentinel.governor.policy is not None)


def _admit(sentinel: Sentinel, run_id: Any, started: Started, *, force: bool) -> None:
    """Reserves what the call may use, unless a middleware has done so; raises if it may not be sent."""
    reservations = sentinel.in_flight.reservations
    reservation = _taken(sentinel, run_id)
    if reservation is not None:
        reservations[run_id] = reservation
        return
    origin = started.origin
    asked = Request(
        origin.session_id,
        origin.root_id,
        started.started_at,
        started.model,
        started.provider,
        estimated_input(started.prompt.chars if started.prompt is not None else 0, started.toolset),
        started.max_tokens,
        origin.user_id,
        origin.tags,
    )
    admission = sentinel.governor.admit(asked, force=force)
    refused = admission.refused
    if refused is not None and refused.action == "downgrade":
        sentinel.governor.settle(refused, "skipped", "a handler cannot downgrade")
        if admission.reservation is None:
            admission = sentinel.governor.admit(asked, cheapest=True)
        refused = None if admission.reservation is not None else admission.refused
    if refused is not None:
        sentinel.governor.settle(refused, "done")
        raise CallRefused(refused)
    if admission.reservation is not None:
        reservations[run_id] = admission.reservation


def _taken(sentinel: Sentinel, run_id: Any) -> Reservation | None:
    """What a door around the call has reserved for it; None if there is none, or it is another call's."""
    reservation = reserved_by(sentinel)
    return reservation if reservation is not None and reservation.take(run_id) else None


def _goes_on_there(sentinel: Sentinel, unsent: Started) -> None:
    """Whoever sends the request again goes on where he was."""
    if unsent.asked is not None:
        sentinel.in_flight.continued.end(unsent.asked, unsent.started_at, None, failed=True)
