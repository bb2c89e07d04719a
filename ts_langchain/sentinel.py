"""`Sentinel`: sessions, rules, incidents. Everything that captures feeds it.

It does no I/O of its own; budgets kept in Redis and remote kill switches do, if they are asked for.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ts_langchain.call import features
from ts_langchain.capture.context import SessionContext, as_id
from ts_langchain.capture.in_flight import InFlight
from ts_langchain.errors import ConfigurationError
from ts_langchain.forked import survives_fork
from ts_langchain.governor import Governor
from ts_langchain.health import Faults, announce
from ts_langchain.incident import Bill, Incident, open_incident
from ts_langchain.listeners import Listeners
from ts_langchain.policy import as_mapping, as_policy
from ts_langchain.pricing import Prices
from ts_langchain.rules import build_rules, known_rules, rule_classes
from ts_langchain.session import MAX_BILLS_IDLE, MAX_INCIDENTS, Session, SessionState, Totals

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from ts_langchain.call import Call
    from ts_langchain.decision import Decision
    from ts_langchain.policy import Policy
    from ts_langchain.pricing import Cost, Rates
    from ts_langchain.rules.base import Finding, Rule

    _Concerned = tuple[str, Rule[Any], Callable[[Call, Any], Finding | None]]
    """A rule's name, the rule, and how it is shown a call."""

Mode = Literal["observe", "block"]

IDLE_SECONDS = 900.0
QUIET_SECONDS = 900.0
MAX_SESSIONS = 20_000
MAX_PAST_INCIDENTS = 10_000
SWEEP = 4


class Store(Protocol):
    """Where sessions go that do not fit into memory. Replay has one; a live Sentinel has none."""

    def load(self, session_id: str) -> SessionState | None:
        """A session stored earlier, None if there is none."""
        ...

    def evict(self, state: SessionState) -> None:
        """Takes a session that has to leave memory."""
        ...

    def changed(self, state: SessionState) -> None:
        """Told when a session has changed and no call of it has ended, under the session's lock."""
        ...

    def touched(self, state: SessionState, call: Call, cost: Cost | None) -> None:
        """Told after each call, under the session's lock."""
        ...

    def closed(self, incident: Incident) -> None:
        """Told of an incident that is over and leaves its session."""
        ...


@dataclass(frozen=True, slots=True)
class Health:
    """How the Sentinel itself is doing.

    Attributes:
        calls: Calls observed.
        sessions: Sessions in memory.
        evicted_sessions: Sessions dropped from memory because there were too many, oldest event time first.
        faults: What went wrong inside: place and exception type to number of times.
    """

    calls: int
    sessions: int
    evicted_sessions: int
    faults: Mapping[str, int]

    @property
    def ok(self) -> bool:
        """True if nothing went wrong and nothing was dropped."""
        return not self.faults and not self.evicted_sessions


def _revived(configuration: tuple[Any, ...]) -> Sentinel:
    """A Sentinel with the configuration of one that was pickled."""
    rules, settings, prices, policy, max_sessions = configuration
    return Sentinel(rules, settings, prices, policy=policy, max_sessions=max_sessions)


class Sentinel:
    """Watches calls, recognises waste, keeps the accounts. Thread-safe.

    Args:
        rules: Names or classes of the rules to run; None for all.
        settings: `rule.param` to value, for example `{"tool_loop.min_calls": 5}`.
        prices: Own prices by model name (see `ts_langchain.pricing.Rates`), or a `Prices`.
        policy: What to do about incidents, and budgets: a `Policy`, a mapping, or the path of a YAML file. Without
            one nothing is decided; with one, middleware and guards carry the decisions out.
        max_sessions: Sessions kept in memory. An idle session (silent for 900 s of event time) takes at most 6 KB: the
            default of 20 000 is bounded by 120 MB of these. An active one takes 10 KB typically, 64 KB after thousands
            of different calls, and 170 KB at most, where every buffer of every rule is full. Beside them the newest
            10 000 incidents that are over are kept, 2 KB each, and `duplicate_work` remembers 10 000 requests, 3 to
            6 MB.
        store: Where sessions go that do not fit; None drops and counts them.

    Raises:
        ConfigurationError: A rule, setting or field of the policy does not exist, or a value is not allowed.

    Example:
        >>> sentinel = Sentinel(settings={"tool_loop.min_calls": 5})
        >>> sentinel.incidents()
        []
    """

    def __init__(
        self,
        rules: Sequence[str | type[Rule[Any]]] | None = None,
        settings: Mapping[str, object] | None = None,
        prices: Mapping[str, Rates | Mapping[str, float]] | Prices | None = None,
        *,
        policy: Policy | Mapping[str, Any] | Path | str | None = None,
        max_sessions: int = MAX_SESSIONS,
        store: Store | None = None,
    ) -> None:
        if not isinstance(max_sessions, int) or max_sessions < 1:
            msg = f"max_sessions is {max_sessions!r}, expected a number of 1 or more"
            raise ConfigurationError(msg)
        if not isinstance(prices, Prices):
            prices = Prices(as_mapping(prices or {}, "prices: expected a mapping of model names to prices"))
        self.prices = prices
        classes = rule_classes(rules)
        given = as_mapping(settings or {}, "settings: expected a mapping of rule.param to value")
        checked = as_policy(policy, {*known_rules(), *classes})
        self._configuration = (tuple(classes.values()), dict(given), self.prices, checked, max_sessions)
        self.rules = build_rules(classes, {**(checked.settings if checked else {}), **given}, self.prices)
        self.faults = Faults()
        self.governor = Governor(checked, self.prices, self.faults)
        self.in_flight = InFlight()
        self.max_sessions = max_sessions
        self._wants: list[tuple[frozenset[str], int, _Concerned]] = [
            (frozenset(r.kinds), int(r.needs), (r.name, r, r.observe)) for r in self.rules
        ]
        self._concerned: dict[tuple[str, int], tuple[_Concerned, ...]] = {}  # by kind and features, made when asked for
        self._exempting = frozenset(
            r.name
            for r in self.rules
            if (s := r.settings).exempt_tools or s.exempt_nodes or s.exempt_tags or s.exempt_sessions
        )
        self._blocking = frozenset(r.name for r in self.rules if r.settings.block)
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._awake: OrderedDict[str, None] = OrderedDict()  # sessions not shrunk, least recently used first
        self._lock = threading.RLock()
        self._past: deque[Incident] = deque(maxlen=MAX_PAST_INCIDENTS)
        self._listeners: Listeners[Incident] = Listeners("on_incident callback", self.faults)
        self._store = store
        self._calls = 0
        self._evicted = 0
        survives_fork(self)

    def __copy__(self) -> Sentinel:
        """The same Sentinel: what is copied with it (a model, a graph, a config) goes on being watched by it."""
        return self

    def __deepcopy__(self, memo: object) -> Sentinel:
        """As `__copy__`."""
        return self

    def __reduce__(self) -> tuple[object, ...]:
        """Pickled, it is its configuration: another process watches by the same settings, and begins with nothing.

        Callbacks and the store stay behind.
        """
        return _revived, (self._configuration,)

    def after_fork(self) -> None:
        """Has locks of its own in a forked process, and only then threads again, which may need them."""
        self._lock = threading.RLock()
        self.faults.after_fork()
        self.in_flight.continued.after_fork()
        for session in self._sessions.values():
            session.lock = threading.RLock()
        for owner in (*self.rules, self.governor.budgets, self.governor.control):
            if owner is not None:
                with self.faults.fail_open("after a fork"):
                    owner.after_fork()

    # --- users' side -------------------------------------------------------------------------------

    def session(
        self,
        session_id: object | None = None,
        *,
        user_id: object | None = None,
        tags: Sequence[str] = (),
    ) -> SessionContext:
        """A context in which all calls belong to this session, user and tags; ids are read as text, text as one tag.

        Example:
            >>> with Sentinel().session("chat-17", user_id="ada"):
            ...     pass
        """
        return SessionContext(session_id, user_id, (tags,) if isinstance(tags, str) else tuple(tags))

    def on_incident(self, callback: Callable[[Incident], object]) -> None:
        """Calls `callback` with a copy of each incident that opens or becomes more severe.

        Until then the logger `ts_langchain` tells of them: of severe ones as warnings, of others, and of all where
        there is a policy, at level INFO.

        It runs in the thread of the call that caused it, with no lock held; what it raises is counted in
        `health()` and goes no further.

        Raises:
            ConfigurationError: It is no plain function: not callable, or a coroutine function.
        """
        self._listeners.add(callback)

    def on_decision(self, callback: Callable[[Decision], object]) -> None:
        """Calls `callback` with a copy of each decision once it is settled: done, dry run, skipped or failed.

        What it raises is counted in `health()` and goes no further.

        Raises:
            ConfigurationError: It is no plain function: not callable, or a coroutine function.
        """
        self.governor.listeners.add(callback)

    def decisions(self, session_id: object | None = None) -> list[Decision]:
        """Copies of the policy's newest 10 000 decisions, or those about one session, in order of time."""
        wanted = as_id(session_id)
        return [copy.copy(d) for d in self.governor.decisions() if wanted in (None, d.session_id)]

    def close(self) -> None:
        """Ends background threads (kill switch and remote policy). Nothing else needs it."""
        self.governor.close()

    def incidents(self, session_id: object | None = None) -> list[Incident]:
        """Copies of all incidents, or those of one session, in order of opening."""
        wanted = as_id(session_id)
        with self._lock:
            found = [copy.copy(i) for i in self._past if wanted in (None, i.session_id)]
            sessions = list(self._sessions.values())
        for session in sessions:
            if wanted in (None, session.state.id):
                with session.lock:
                    found.extend(copy.copy(i) for i in session.state.incidents.values())
        return sorted(found, key=lambda i: (i.opened_at, i.id))

    def totals(self, session_id: object) -> Totals | None:
        """What a session consisted of so far; None if it is not known."""
        session = self._sessions.get(as_id(session_id) or "")
        if session is None:
            return None
        with session.lock:
            return copy.copy(session.state.totals)

    def health(self) -> Health:
        """How the Sentinel itself is doing."""
        return Health(self._calls, len(self._sessions), self._evicted, self.faults.counts())

    # --- capture's side ----------------------------------------------------------------------------

    def get(self, session_id: str) -> Session:
        """The session of this id, made or loaded if need be."""
        session = self._sessions.get(session_id)  # one dict look-up: atomic
        if session is not None:
            return session
        with self._lock:
            session = self._sessions.get(session_id)
            if session is not None:
                return session
            state = self._store.load(session_id) if self._store is not None else None
            session = Session(state or SessionState(session_id))
            self._sessions[session_id] = session
            evicted = self._make_room() if len(self._sessions) > self.max_sessions else None
        if evicted is not None and self._store is not None:
            with evicted.lock:
                self._store.evict(evicted.state)
        return session

    def _make_room(self) -> Session:
        """Takes out the session whose last call is the oldest in event time. The table's lock is held."""
        # the table is in order of last use; event time may differ from it, so the oldest few compete
        heads = []
        for number, (session_id, session) in enumerate(self._sessions.items()):
            heads.append((session.state.last_at, number, session_id))
            if number >= 15:
                break
        heads.pop()  # never the newest, which has not been used yet, in a table of less than 16
        _, _, oldest = min(heads)
        session = self._sessions.pop(oldest)
        self._evicted += self._store is None
        if self._store is None:
            self._past.extend(session.state.incidents.values())
        return session

    def changed(self, session: Session) -> None:
        """To be called when a request was read into a session's state. The session's lock is held."""
        if self._store is not None:
            self._store.changed(session.state)

    def observe(self, call: Call) -> None:
        """Takes in one finished call. Never raises."""
        opened: list[Incident] = []
        settled: list[Decision] = []
        try:
            self._observe(call, opened, settled)
        except Exception as error:  # noqa: BLE001 - fails open, see health.Faults
            self.faults.record("sentinel.observe", error)
        if opened:
            self._notify(opened)
        for decision in settled:
            self.governor.tell(decision)

    def _observe(self, call: Call, opened: list[Incident], settled: list[Decision]) -> None:
        """Takes the call in. Adds what is to be told to users once no lock is held."""
        session = self.get(call.session_id)
        cost = self.prices.cost(call) if call.model is not None or call.source_cost is not None else None
        with session.lock:
            state = session.state
            # of embeddings nobody knows before they end: until then there was silence
            self.rest(state, call.ended_at if call.kind == "embedding" else call.started_at)
            state.shrunk = False
            if not state.totals.calls or call.started_at < state.started_at:
                state.started_at = call.started_at
            if call.ended_at > state.last_at:
                state.last_at = call.ended_at
            state.totals.add(call, cost)
            if call.usage.input_tokens or call.usage.output_tokens or call.kind == "model":
                session.bill(call.id, Bill(call, cost, self.prices.cost_of_cached(call, cost) if cost else 0))
            states = state.rules
            for name, rule, observe in self._rules_for(call):
                try:
                    rule_state = states.get(name)
                    if rule_state is None:
                        rule_state = states[name] = rule.new_state()
                    if name in self._exempting and rule.exempts(call):
                        rule.overlook(call, rule_state)
                        continue
                    finding = observe(call, rule_state)
                    if finding is not None:
                        self._take(rule, finding, call, state, opened, settled)
                except Exception as error:  # noqa: BLE001 - one rule's bug must not silence the others
                    self.faults.record(f"rule {name}", error)
            if self._store is not None:
                self._store.touched(state, call, cost)
        with self._lock:
            self._calls += 1
            if call.session_id in self._sessions:
                self._sessions.move_to_end(call.session_id)
                self._awake[call.session_id] = None
                self._awake.move_to_end(call.session_id)
            sweep = self._calls % SWEEP == 0
        if sweep:
            self._sweep(call.ended_at)

    def _rules_for(self, call: Call) -> tuple[_Concerned, ...]:
        """The rules that this call is shown to."""
        key = call.kind, features(call)
        try:
            return self._concerned[key]
        except KeyError:
            kind, found = key
            concerned = tuple(rule for kinds, needs, rule in self._wants if kind in kinds and not needs & ~found)
            self._concerned[key] = concerned
            return concerned

    def _take(
        self,
        rule: Rule[Any],
        finding: Finding,
        call: Call,
        state: SessionState,
        opened: list[Incident],
        settled: list[Decision],
    ) -> None:
        """Opens or extends the finding's incident, and decides. Adds copies of what users should hear of."""
        key = (rule.name, finding.key)
        incident = state.incidents.get(key)
        if incident is not None and call.started_at - incident.last_seen_at > QUIET_SECONDS:
            self._close(incident, state)
            incident = None
        if incident is None:
            incident = self._make_way(rule.name, call, state)
        if incident is None:
            incident = state.incidents[key] = open_incident(rule.name, rule.suggestion, finding, call)
        rose = incident.extend(finding, call, rule.thresholds.values())
        decision = self.governor.judge(rule, finding, incident, call, state)
        if decision is not None:
            settled.append(decision)
        for claim in finding.claims:
            bill = state.bills.get(claim.call_id)
            if bill is not None:
                bill.claim(claim, incident, rule.specificity)
        if rose:
            opened.append(copy.copy(incident))

    def _make_way(self, rule: str, call: Call, state: SessionState) -> Incident | None:
        """Room for one more incident. Where there are too many of late, the rule's newest one takes the finding in."""
        if len(state.incidents) < MAX_INCIDENTS:
            return None
        oldest = min(state.incidents.values(), key=lambda i: (i.last_seen_at, i.id))
        if call.started_at - oldest.last_seen_at <= QUIET_SECONDS:
            own = [i for i in state.incidents.values() if i.rule == rule]
            if own:
                return max(own, key=lambda i: (i.last_seen_at, i.id))
        self._close(oldest, state)
        return None

    def _close(self, incident: Incident, state: SessionState) -> None:
        incident.closed = True
        del state.incidents[incident.rule, incident.key]
        state.standing.pop((incident.rule, incident.key), None)
        if self._store is not None:
            self._store.closed(incident)
        else:
            self._past.append(incident)

    def rest(self, state: SessionState, at: float) -> None:
        """To be called before a call that begins at this moment is read into a session's state. Its lock is held.

        A session that was silent until then is reduced, whether or not that has been done meanwhile: what is found
        depends on event time alone, not on who else was active, or on what had to leave memory.
        """
        if at - state.last_at > IDLE_SECONDS:
            self._shrink(state)

    def _shrink(self, state: SessionState) -> None:
        """Reduces what is kept of a session that has been silent."""
        if state.shrunk or not state.totals.calls:
            return
        for rule in self.rules:
            if rule.name in state.rules:
                kept = state.rules[rule.name]
                rule.shrink(kept)
                if not rule.outlives(kept):
                    del state.rules[rule.name]
        state.bills.limit(MAX_BILLS_IDLE)
        if state.capture is not None:
            state.capture.shrink()
        state.shrunk = True

    def _sweep(self, now: float) -> None:
        """Shrinks sessions that have been silent, a few at a time: O(1) amortised over the calls.

        One with a call under way is not silent.
        """
        with self._lock:
            silent: list[Session] = []
            while self._awake and len(silent) < SWEEP * 2:
                session = self._sessions.get(next(iter(self._awake)))
                if session is not None:
                    if now - session.state.last_at <= IDLE_SECONDS:
                        break
                    silent.append(session)
                self._awake.popitem(last=False)
        busy = {call.origin.session_id for call in list(self.in_flight.started.values())} if silent else ()
        for session in silent:
            with session.lock:
                if session.state.id not in busy:
                    self.rest(session.state, now)

    def _notify(self, opened: list[Incident]) -> None:
        """Tells users of incidents. No lock may be held. Where nobody listens, they are logged."""
        if not self._listeners and self._store is None:
            with self.faults.fail_open("log"):
                for incident in opened:
                    # with a policy it is `warn` that says what is worth a warning
                    warns = incident.severity == "high" and self.governor.policy is None
                    level = logging.WARNING if warns else logging.INFO
                    announce(incident.rule, incident.summary, incident.suggestion, level)
        for incident in opened:
            self._listeners.tell(incident)

    # --- the doors' side ---------------------------------------------------------------------------

    def due(
        self, session_id: str, root_id: str, at: float, *, resuming: bool = False, dry: bool = False
    ) -> list[Decision]:
        """Decisions in force for the next call of a run. Each one is to be reported back with `governor.settle`.

        Args:
            session_id: The conversation.
            root_id: The outermost run.
            at: Event time. One that is `lasting` holds until the incident has been silent for 30 s.
            resuming: The run goes on after an interrupt: a `pause` decided in the run before is asked about again.
            dry: Those that would be in force, were this no dry run; nothing is to be reported back.
        """
        session = self._sessions.get(session_id)
        if session is None or not session.state.standing:
            return []
        return self.governor.due(session, root_id, at, resuming=resuming, dry=dry)

    def forgive(self, decision: Decision) -> None:
        """A human has approved: the incident's strikes start again."""
        session = self._sessions.get(decision.session_id)
        if session is not None:
            with session.lock:
                session.state.standing.pop((decision.rule, decision.key), None)

    def veto(self, session: Session, root_id: str, turn: int, request: int, at: float) -> Incident | None:
        """The incident because of which this model request should not be sent; None if it may go.

        A loop is vetoed inside the run and the turn it happens in; the next of the same session may go on. A retry
        storm is vetoed by its request; once that has been silent for 30 s, it is let through to see how it is answered
        now.
        """
        incidents = session.state.incidents
        if not incidents:
            return None
        if self.governor.policy is not None:
            return self.governor.veto(session, root_id, request, at)
        with session.lock:
            for (rule, _), incident in incidents.items():
                if incident.severity != "high" or rule not in self._blocking:
                    continue
                if incident.request is not None:
                    if incident.is_storm_of(request, at):
                        return copy.copy(incident)
                elif incident.root_id == root_id or incident.turn == turn:
                    return copy.copy(incident)
        return None

    # --- storing -----------------------------------------------------------------------------------

    def states(self) -> list[SessionState]:
        """All sessions in memory, for storing them. Not a copy."""
        with self._lock:
            return [s.state for s in self._sessions.values()]


def as_sentinel(given: Any) -> Sentinel:
    """What is given, if it is a Sentinel.

    Raises:
        ConfigurationError: It is none.
    """
    if not isinstance(given, Sentinel):
        msg = (
            "sentinel: expected a Sentinel, such as Sentinel(policy=...) or the `sentinel` of a handler, got a "
            f"{type(given).__name__}"
        )
        raise ConfigurationError(msg)
    return given
