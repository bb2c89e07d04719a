"""`error_loop`: a tool fails with the same error again and again."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, PositiveFloat

from ts_langchain.fingerprint import mix, name_hash
from ts_langchain.recent import Recent
from ts_langchain.rules.base import Claim, Finding, Rule, RuleSettings
from ts_langchain.rules.beside import Made, then, times
from ts_langchain.rules.effects import effect_of, is_worth_another_try, judges, lets_time_pass, outcome, works_on_all

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.call import Call, Kind

MAX_TOOLS = 6
MAX_UNCLAIMED = 8
MAX_TRIED = 24
MAX_DID = 8
EXPLORING = 2
"""Of a tool that is given something else meanwhile, so many times as many failures are severe."""


class Failures:
    """Consecutive failures of one tool with one error."""

    __slots__ = (
        "again",
        "arguments",
        "asked_by",
        "count",
        "did",
        "ended_at",
        "error",
        "made",
        "others",
        "since",
        "tried",
        "unclaimed",
        "unit",
        "varied",
        "works_on",
    )

    def __init__(self, error: int, since: float, again: bool, works_on: bool) -> None:
        self.asked_by: str | None = None
        self.unit: str | None = None  # the tool call, which code may try several times
        self.ended_at = 0.0
        self.again = again  # it is worth another try once something has changed
        self.works_on = works_on  # so it is once something has changed that had not been changed so before
        self.did = array("q")  # what others did or brought meanwhile
        self.error = error
        self.since = since
        self.count = 0
        self.arguments = 0
        self.tried = array("q")  # the arguments
        self.others = True  # each time it was given something else
        self.made: Made = ()
        self.varied = False
        self.unclaimed: list[tuple[str, str | None, str, int, float]] = []


class ErrorLoop(Rule["Recent[int, Failures]"]):
    """A tool fails, and the model calls it again and again into the same error.

    Fires when one tool has failed `min_failures` times in a row with the same error (its type and the first line
    of its message) within `window_seconds` of event time, whatever the arguments. Severity medium if they do not
    fall into one turn of an agent, if another tool of which nobody can say what it does succeeded in between, and up to
    twice as many failures of a tool that was given something else meanwhile: what is looked for may just not be there,
    what is created be there already. Severity medium, too, where it waited before it tried again (`sleep`), where a
    tool that looks or judges (`find_person`, `check_link`) was given something else each time, and where other tools
    brought something new in between and it was given something else, or works on what they do (`merge`, `deploy`).

    Does not fire on: different errors, which is trying; a success in between, of the tool itself, or for a test or a
    look, of another one that changed something (`edit_file`, `set_…`, `bash`), or for what works on that (`build`,
    `git_commit`, `click`), of another change than before; a failure that is retried once and mended; failures side by
    side, or that code tries again within one tool call, which count as one.

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

    def new_state(self) -> Recent[int, Failures]:
        return Recent()

    def shrink(self, state: Recent[int, Failures]) -> None:
        state.clear()

    def observe(self, call: Call, state: Recent[int, Failures]) -> Finding | None:
        if call.status == "cancelled":
            return None
        tool = name_hash(call.name)
        if call.status != "error" or not call.answer:
            state.pop(tool, None)
            self.overlook(call, state)
            return None
        s = self.settings
        failures = state.pop(tool, None)
        if failures is None or failures.error != call.answer or call.started_at - failures.since > s.window_seconds:
            works_on = effect_of(call) == "changes" and works_on_all(call.name)
            failures = Failures(call.answer, call.started_at, is_worth_another_try(call), works_on)
        state[tool] = failures
        state.limit(MAX_TOOLS)
        # side by side, in one answer of the model, they are one try; so is one tool call that code tries several times
        beside = (
            call.started_at < failures.ended_at
            or (call.requested_by is not None and call.requested_by == failures.asked_by)
            or (call.tool_call_id is not None and call.tool_call_id == failures.unit)
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
        enough = s.min_failures * (EXPLORING if failures.varied else 1)
        looked = failures.others and (effect_of(call) == "looks" or judges(call.name))
        severe = not looked and len(times(failures.made, call.turn)) >= enough
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

    def overlook(self, call: Call, state: Recent[int, Failures]) -> None:
        """What it changed is a reason to try others again."""
        if call.status == "ok":
            state.pop(name_hash(call.name), None)
        if not state or call.status != "ok" or call.kind != "tool":
            return
        effect, came = effect_of(call), hash(outcome(call))
        changes = effect in ("changes", "runs code")
        for tool, others in list(state.items()):
            new = came not in others.did
            if changes and (others.again or (others.works_on and new)):
                del state[tool]
            elif effect == "unknown" or lets_time_pass(call.name) or (new and (others.varied or others.works_on)):
                others.made = ()  # it may have changed something, or may be allowed now; or the agent gets on
            if new:
                others.did.append(came)
                del others.did[:-MAX_DID]
