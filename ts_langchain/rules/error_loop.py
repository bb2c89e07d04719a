"""`error_loop`: a tool fails with the same error again and again."""

from __future__ import annotations

from array import array
from copy import copy
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, PositiveFloat

from ts_langchain.fingerprint import mix, name_hash
from ts_langchain.recent import Recent
from ts_langchain.rules.base import Claim, Finding, Rule, RuleSettings, Turn
from ts_langchain.rules.beside import NEVER, Made, number_of, then, times
from ts_langchain.rules.effects import (
    Effect,
    effect_of,
    is_worth_another_try,
    judges,
    lets_time_pass,
    may_have_changed,
    outcome,
    was_told_to_look,
    works_on_all,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.call import Call, Kind

MAX_TOOLS = 6
MAX_BESIDE = 6
MAX_ROWS = 4
MAX_UNCLAIMED = 8
MAX_TRIED = 24
MAX_DID = 8
PATIENCE = 8
"""After so many times as many failures nothing excuses another one."""
IN_A_ROW = 3
"""So many times as many failures of whatever tools, with whatever errors, are told of."""
EXPLORING = 2
"""Of a tool that is given something else meanwhile, or is not there for now, so many times as many are severe."""
SWEEPING = 4
"""Of one that acts, and on something else each time (the next slot), so many times as many."""


class Failures:
    """Consecutive failures of one tool with one error, as one turn knows of them."""

    __slots__ = (
        "again",
        "arguments",
        "asked_by",
        "count",
        "did",
        "ended_at",
        "error",
        "excused",
        "made",
        "others",
        "root_id",
        "since",
        "tried",
        "turn",
        "unclaimed",
        "unit",
        "varied",
        "works_on",
    )

    def __init__(self, call: Call) -> None:
        self.turn, self.root_id = call.turn, call.root_id
        self.asked_by: str | None = None
        self.unit: str | None = None  # the tool call, which code may try several times
        self.ended_at = 0.0
        self.again = is_worth_another_try(call)  # it is worth another try once something has changed
        self.works_on = works_on_all(call)  # so it is once something has changed that had not been changed so before
        self.did = array("q")  # what others did or brought meanwhile
        self.error = call.answer
        self.since = call.started_at
        self.count = 0
        self.excused = 0  # failures before something was done that may have mended them
        self.arguments = 0
        self.tried = array("q")  # the arguments
        self.others = True  # each time it was given something else
        self.made: Made = NEVER
        self.varied = False
        self.unclaimed: list[tuple[str, str | None, str, int, float]] = []

    def handed_to(self, call: Call) -> Failures:
        """The same for a turn that goes on where this one has given up."""
        own = copy(self)
        own.turn, own.root_id = call.turn, call.root_id
        own.asked_by, own.unit, own.ended_at, own.made = None, None, 0.0, NEVER
        own.did, own.tried = self.did[:], self.tried[:]
        self.unclaimed = []  # they are told once, and by whoever goes on
        return own

    def excuse(self, *, anew: bool = False) -> None:
        """Something was done that may have mended it; `anew`, what it works on was changed."""
        self.excused += number_of(self.made)
        self.made = NEVER
        if anew:
            self.count, self.varied, self.others = 0, False, True
            self.unclaimed.clear()
            del self.tried[:]


class Row:
    """Failures one after the other in one turn of an agent, of whatever tool and with whatever error: nothing works."""

    __slots__ = ("asked_by", "count", "unclaimed")

    def __init__(self) -> None:
        self.count = 0
        self.asked_by: str | None = None
        self.unclaimed: list[Turn] = []

    def add(self, call: Call) -> bool:
        """Counts a failure that a model has asked for, those of one answer as one. True if it counts."""
        if call.requested_by is None or call.requested_by == self.asked_by:
            return False
        self.asked_by = call.requested_by
        self.count += 1
        if self.count > 1:
            unit = call.tool_call_id or call.id
            self.unclaimed.append(
                Turn(call.id, call.requested_by, unit, call.siblings, call.ended_at - call.started_at)
            )
            del self.unclaimed[:-MAX_UNCLAIMED]
        return True


class Trouble:
    """State of one session: failures by tool, and all of them in a row."""

    __slots__ = ("beside", "rows", "tools")

    def __init__(self) -> None:
        self.tools: Recent[int, Failures] = Recent()
        # by tool and turn, where another one has called the tool last; and by turn; most sessions have neither
        self.beside: Recent[int, Failures] | None = None
        self.rows: Recent[int, Row] | None = None

    def take(self, call: Call) -> Failures | None:
        """Takes out the failures of its tool that this call follows: of its turn, or of the one before."""
        tool, others = name_hash(call.name), self.beside
        last, own = self.tools.pop(tool, None), others.pop(mix(tool, call.turn), None) if others else None
        if last is None or last.turn == call.turn:
            return last or own
        if others is None:
            others = self.beside = Recent()
        others[mix(tool, last.turn)] = last
        others.limit(MAX_BESIDE)
        beside = call.step and last.root_id == call.root_id  # agents of one graph may go on at the same time
        return own or (None if beside else last.handed_to(call))

    def row(self, turn: int) -> Row:
        """The failures of a turn in a row."""
        rows = self.rows = self.rows or Recent()
        row = rows[turn] = rows.pop(turn, None) or Row()  # type: ignore[arg-type]
        rows.limit(MAX_ROWS)
        return row


class ErrorLoop(Rule[Trouble]):
    """A tool fails, and the model calls it again and again into the same error.

    Fires when one tool has failed `min_failures` times in a row with the same error (its type and the first line of
    its message) within `window_seconds` of event time, whatever the arguments. Severity medium if they do not fall
    into one turn of an agent (of agents of one graph, which may go on side by side, each has its own), if another tool
    of which nobody can say what it does succeeded in between, and as long as another try may well bring something
    else. That is up to twice as many failures where it was given something else meanwhile (what is looked for may just
    not be there, what is created be there already) or is not there for now (503, too many requests); four times as many
    of a tool that acts and was given something else each time (`book_slot`); eight times as many of one that looks or
    judges (`find_person`, `check_link`, `kubectl get`), or of which nobody can say what it does (`enrich`), and was,
    where it waited before it tried again (`sleep`), and where other tools brought something new in between and it was
    given something else, or works on what they do (`merge`, `deploy`).

    Fires, too, with severity medium, when three times as many tool calls in a row have failed in one turn, whatever the
    tools and the errors (`no such file: a.py`, `no such file: b.py`), and nothing has worked in between.

    Does not fire on: a few different errors, which is trying; a success in between, of the tool itself, or for a
    test or a look, of another one that changed something (`edit_file`, `set_…`, `bash`), or for what works on that
    (`build`, `git_commit`, `click`), of another change than before; a failure that is retried once and mended;
    failures side by side, or that code tries again within one tool call, which count as one.

    Wasted: the turns of all failures but the first.
    """

    name = "error_loop"
    specificity = 42
    kinds: ClassVar[frozenset[Kind]] = frozenset({"tool", "retriever"})
    suggestion = "Tell the model what the error means, mend the tool, or take the tool away for this run."
    thresholds: ClassVar[Mapping[str, str]] = {"min_failures": "failures"}

    class Settings(RuleSettings):
        """Settings of error_loop."""

        block: bool = Field(True, description="In mode `block`: veto the next model call while it lasts.")
        min_failures: int = Field(3, ge=2, description="Failures in a row.")
        window_seconds: PositiveFloat = Field(600, description="Event time in which they must fall.")

    settings: Settings

    def new_state(self) -> Trouble:
        return Trouble()

    def shrink(self, state: Trouble) -> None:
        state.tools.clear()
        state.beside = state.rows = None

    def observe(self, call: Call, state: Trouble) -> Finding | None:
        if call.status == "cancelled":
            return None
        if call.status != "error" or not call.answer:
            self.overlook(call, state)
            if call.status != "ok":
                state.take(call)
            return None
        row = state.row(call.turn)
        counts = row.add(call)
        return self._same(call, state) or (self._all(call, row) if counts else None)

    def _all(self, call: Call, row: Row) -> Finding | None:
        """The finding, if nothing but failures has come for long."""
        if row.count < self.settings.min_failures * IN_A_ROW:
            return None
        unclaimed, row.unclaimed = row.unclaimed, []
        return Finding(
            0,
            f"{row.count} tool calls in a row failed, the last one of {call.name}; nothing worked in between.",
            claims=tuple(
                Claim(t.requested_by, "turn", unit=t.unit, units=t.units) for t in unclaimed if t.requested_by
            ),
            calls=tuple(t.call_id for t in unclaimed),
            seconds=sum(t.seconds for t in unclaimed),
            severity="medium",
            confidence=0.7,
            evidence={"failures": row.count, "error": call.error},
        )

    def _same(self, call: Call, state: Trouble) -> Finding | None:
        """The finding, if one tool has run into the same error again."""
        s, tool = self.settings, name_hash(call.name)
        failures = state.take(call)
        if failures is None or failures.error != call.answer or call.started_at - failures.since > s.window_seconds:
            before = failures.excused if failures is not None and failures.error == call.answer else 0
            failures = Failures(call)
            failures.excused = before
        state.tools[tool] = failures
        state.tools.limit(MAX_TOOLS)
        # side by side, in one answer of the model, they are one try; so is one tool call that code tries several times
        beside = (
            call.started_at < failures.ended_at
            or (call.requested_by is not None and call.requested_by == failures.asked_by)
            or (call.requested_by is None and call.tool_call_id is not None and call.tool_call_id == failures.unit)
        )
        failures.unit, failures.asked_by = call.tool_call_id, call.requested_by or failures.asked_by
        failures.ended_at = max(failures.ended_at, call.ended_at)
        first = not failures.count
        if not beside:
            failures.count += 1
            failures.made = then(failures.made, call, call.turn, call.started_at, s.min_failures * EXPLORING)
        arguments = hash(call.arguments.fingerprint) if call.arguments is not None else 0
        failures.varied |= not first and arguments != failures.arguments
        failures.arguments = arguments
        failures.others &= arguments not in failures.tried
        failures.tried.append(arguments)
        del failures.tried[:-MAX_TRIED]
        if not first:
            unit = call.tool_call_id or call.id
            took = call.ended_at - call.started_at
            failures.unclaimed.append((call.id, call.requested_by, unit, call.siblings, took))
            del failures.unclaimed[:-MAX_UNCLAIMED]
        if failures.count < s.min_failures:
            return None
        unclaimed, failures.unclaimed = failures.unclaimed, []
        enough = s.min_failures * (EXPLORING if failures.varied or call.unavailable else 1)
        patience = s.min_failures * PATIENCE
        looks = effect_of(call) in ("looks", "unknown") or judges(call.name) or was_told_to_look(call)
        sweeps = failures.others and failures.count < (patience if looks else s.min_failures * SWEEPING)
        again = len(times(failures.made, call.turn))
        severe = (again >= enough and not sweeps) or failures.excused + again >= patience
        return Finding(
            mix(tool, call.answer),
            f"{call.name} failed {failures.count} times in a row with the same error"
            + (f" ({call.error})." if call.error else "."),
            claims=tuple(Claim(r, "turn", unit=unit, units=units) for _, r, unit, units, _ in unclaimed if r),
            calls=tuple(u[0] for u in unclaimed),
            seconds=sum(u[4] for u in unclaimed),
            severity="high" if severe else "medium",
            confidence=0.93,
            evidence={
                "tool": call.name,
                "failures": failures.count,
                "error": call.error,
                "error_hash": f"{call.answer & 0xFFFFFFFFFFFFFFFF:016x}",
            },
        )

    def overlook(self, call: Call, state: Trouble) -> None:
        """What it changed is a reason to try others again."""
        if call.status != "ok":
            return
        effect = effect_of(call)
        if state.rows and effect != "thinks":
            state.rows.pop(call.turn, None)
        if not (state.tools or state.beside):
            return
        state.take(call)
        if call.kind != "tool":
            return
        self._excuse(call, effect, state.tools)
        if state.beside:
            self._excuse(call, effect, state.beside)

    def _excuse(self, call: Call, effect: Effect, failing: Recent[int, Failures]) -> None:
        """What is done by one agent may have mended it for all; that it gets on says nothing of the others."""
        came = hash(outcome(call))
        changes = may_have_changed(call)
        for key, others in list(failing.items()):
            new = came not in others.did
            gets_on = new and (others.works_on or (others.varied and others.turn == call.turn))
            if changes and others.again:
                del failing[key]
            elif others.excused >= self.settings.min_failures * PATIENCE:
                pass
            elif changes and others.works_on and new:
                others.excuse(anew=True)
            elif effect == "unknown" or lets_time_pass(call.name) or gets_on:
                others.excuse()  # it may have changed something, or may be allowed now; or the agent gets on
            if new:
                others.did.append(came)
                del others.did[:-MAX_DID]
