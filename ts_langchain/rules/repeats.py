"""The same call again, and nothing new came back: what `tool_loop` and `retrieval_thrash` share.

A *group* holds calls of one tool with the same or nearly the same arguments. A call counts as a repeat only
if it brought back what the group already had; an answer that differs is progress and starts the group anew. So does a
change made by another call in between: to look again, or to test again, is no repeat then. And what is done again (the
next page, one more in the cart) is no repeat where a look in between showed something new.

Repeats make a loop within one turn (`Call.turn`): each of them asked for after the one before had been answered, by
somebody who may know of it: a model has spoken in between. It is one to stop for where the repeats follow one another
and nothing else brings anything new either: an agent that reads the clock before each of its steps is not stuck, nor
is code that looks the same up for each section that it has a model write.

Of turns that go on side by side, and of tasks that do, each has a part of the group of its own: when each of them
makes its calls says nothing of any. What one of them has changed may well be looked at again by all. What tool calls
bring or change that one answer has asked for at once is news to the next request, and to none of them: in which order
they end says nothing either.

A tool that runs an agent of its own (`task` of deep agents) hardly answers the same twice, since a model words the
answer. It brought what the tools inside it brought (`Call.findings`): where these gave the same, it is a repeat. So is
an answer that differs in a UUID, or in the time it was made at, alone (`Call.gist`). The words or the id may have been
what was wanted, so it is none to stop for, and news to all others. Nor is one to stop for that says the same each time,
where the tools inside it gave something else.
"""

from __future__ import annotations

from array import array
from copy import copy
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from pydantic import Field, PositiveFloat

from ts_langchain.fingerprint import mix, name_hash, text_hash
from ts_langchain.recent import Recent
from ts_langchain.rules.base import Claim, Finding, Rule, RuleContext, RuleSettings, Severity, Turn
from ts_langchain.rules.beside import NEVER, Made, fall, then, times
from ts_langchain.rules.effects import (
    asked_for,
    asks_a_person,
    brings_another,
    effect_of,
    is_change,
    is_under_way,
    is_worth_another_try,
    lets_time_pass,
    may_be_meant,
    may_be_reworded,
    may_have_changed,
    outcome,
    works_on_all,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ts_langchain.call import Call, Kind
    from ts_langchain.fingerprint import Arguments

MAX_GROUPS = 21
MAX_GROUPS_IDLE = 4
MAX_RECENT = 6
MAX_TOOLS = 6
MAX_ITEMS = 64
MAX_MADE = 12
MAX_CONVERSATIONS = 4
MAX_SEEN = 24
MAX_TURNS = 8
MAX_BESIDE = 12
MAX_AT_ONCE = 6
MAX_UNCLAIMED = 8
HANDED = -1
"""A turn has called nothing of a group yet that others have."""
BRIEF_CHARS = 100
"""An answer as short as that (`nothing found`, `0 rows`) may well be the same to another question."""
PAGE_CHARS = 200
"""An answer as short as that (`{"items": [], "next": null}`) is a page with nothing on it."""
PAGED = 1
"""In the key of the group that stands for all parts of a list: without it, it is whoever asks for no part."""
REWORDED, REPLACED = 1, 2
"""Asked in other words; and with words in the place of others, as may be another question."""
OTHERS = 8
"""Nobody has so many times as many other questions of nearly the same words that find the same."""
MEANT = 4
"""What acts may well be meant to be done again: a loop is severe after up to so many times as many calls."""

_NO_ITEMS = array("q")


class Group:
    """Calls of one tool with the same or nearly the same arguments, as long as nothing new comes back."""

    __slots__ = (
        "again",
        "answer",
        "arguments_hash",
        "asked_by",
        "conversations",
        "count",
        "ended_at",
        "findings",
        "fresh",
        "gist",
        "items",
        "learned",
        "made",
        "mutations",
        "news",
        "reworded",
        "step",
        "task",
        "told",
        "turn",
        "unclaimed",
        "unknown",
        "worded_by",
    )

    def __init__(self, call: Call, arguments_hash: int) -> None:
        self.arguments_hash = arguments_hash
        self.answer: int | None = call.answer  # None once the answers differ in words, ids or times
        self.findings, self.gist = call.findings, call.gist
        self.items = _packed(call.items) if call.items else _NO_ITEMS
        self.count = 1
        self.turn, self.step, self.task = call.turn, call.step, call.task
        self.made: Made = NEVER
        self.add(call)
        self.conversations: tuple[int, ...] = _only(call.conversation)
        self.asked_by = 0
        self.worded_by: str | None = None  # the model whose words code has asked last
        self.ended_at = call.ended_at
        self.again = 0  # repeats since anything new came, of any call of the turn
        self.fresh = self.learned = self.mutations = self.news = self.told = self.unknown = 0
        self.reworded = 0  # or REWORDED, REPLACED
        self.unclaimed: tuple[Turn, ...] = ()

    @property
    def blind(self) -> bool:
        """True if answers are not captured."""
        return self.answer == 0

    @property
    def retold(self) -> bool:
        """True if the answers differ, and only in words, ids or times."""
        return self.answer is None

    def handed_to(self, call: Call) -> Group:
        """The same for another turn or task, which has called nothing yet that it would follow."""
        own = copy(self)
        own.asked_by, own.ended_at, own.unclaimed = 0, 0.0, ()
        if own.turn != call.turn:
            own.learned = HANDED
        own.turn, own.step, own.task = call.turn, call.step, call.task
        return own

    def knows(self, before: Known, so_far: Known, now: Known) -> None:
        """Notes how far the session was at its newest call: before those asked for at once, with what it did itself.

        Args:
            before: How far it was before the first of those.
            so_far: Right before the call.
            now: Right after it.
        """
        self.mutations = before.mutations + now.mutations - so_far.mutations
        self.news = before.news + now.news - so_far.news
        self.unknown = before.unknown + now.unknown - so_far.unknown
        self.fresh = now.newest if before.newest == so_far.newest else before.newest
        self.learned = now.learned if before.learned == so_far.learned else before.learned

    def add(self, call: Call, kept: int = MAX_MADE) -> None:
        """Counts a call that follows those before it."""
        self.made = then(self.made, call, call.turn, call.started_at, kept)


class Known(NamedTuple):
    """How far a session was, and one of its turns: see `Repeats`."""

    mutations: int
    news: int
    unknown: int
    newest: int
    learned: int


class Repeats:
    """State of one session."""

    __slots__ = (
        "acting",
        "asks",
        "at_once",
        "beside",
        "fresh",
        "groups",
        "mutations",
        "news",
        "recent",
        "seen",
        "steps",
        "told",
        "told_by",
        "unknown",
    )

    def __init__(self) -> None:
        self.groups: Recent[int, Group] = Recent()
        # what other turns and tasks have of groups that were called last by another one; most sessions have none
        self.beside: Recent[int, Group] | None = None
        # how far it was before the first of the calls came that one answer had asked for; most ask for one at a time
        self.at_once: Recent[int, Known] | None = None
        self.recent: Recent[int, tuple[tuple[int, Arguments], ...]] = Recent()
        self.acting = False  # one of the groups is of a tool that changes something
        self.seen = array("q")  # what came of calls
        # each turn, its newest step and the newest that brought it something new, one after the other: they are many
        self.fresh: tuple[int, ...] = ()
        self.asks = 0  # answers of models
        self.steps = 0  # calls that brought something new, or asked for something else in vain
        self.told = 0  # answers of models in words, that were new
        self.told_by = ""  # the newest of them
        self.mutations = 0  # calls that changed something, or after which it is well to look again
        self.news = 0  # calls that brought something new
        self.unknown = 0  # calls of which nobody can say whether they changed something

    def known(self, turn: int) -> Known:
        """How far it is."""
        place = self._place(turn)
        newest, learned = self.fresh[place + 1 : place + 3] if place >= 0 else (0, 0)
        return Known(self.mutations, self.news, self.unknown, newest, learned)

    def before(self, call: Call) -> Known:
        """How far it was before this call, and before those that were asked for along with it."""
        known = self.known(call.turn)
        if call.siblings == 1 or call.requested_by is None:
            return known
        if self.at_once is None:
            self.at_once = Recent()
        asked_by = text_hash(call.requested_by)
        found = self.at_once.get(asked_by)
        if found is not None:
            return found
        self.at_once[asked_by] = known
        self.at_once.limit(MAX_AT_ONCE)
        return known

    def note(self, call: Call, *, repeated: bool = False) -> None:
        """Counts what a call may mean for others."""
        if call.siblings > 1:
            self.before(call)
        if call.status != "ok":
            return
        # while something is waited for, it may change; a person may want it looked at again
        self.mutations += is_under_way(call) or may_have_changed(call) or asks_a_person(call.name)
        waited = lets_time_pass(call.name)
        self.unknown += waited
        if repeated:
            return
        # what another turn was told is new to this one all the same
        came = mix(outcome(call), call.turn)
        new = came not in self.seen
        if not new and call.arguments is not None and call.answer_chars <= BRIEF_CHARS and effect_of(call) != "thinks":
            # `loaded` of the next file: no news, but it gets on
            came = mix(call.answer, asked_for(call, call.arguments), call.turn)
        if came in self.seen:
            return
        self.seen.append(came)
        del self.seen[:-MAX_SEEN]
        self.steps += 1
        if new:
            self.news += 1
            self.unknown += not waited and effect_of(call) == "unknown"
        place = self._place(call.turn)
        others = self.fresh if place < 0 else self.fresh[:place] + self.fresh[place + 3 :]
        learned = self.steps if new else self.known(call.turn).learned
        self.fresh = (*others, call.turn, self.steps, learned)[-3 * MAX_TURNS :]

    def hear(self, call: Call) -> None:
        """Counts an answer of a model."""
        if call.status != "ok":
            return
        self.asks += 1
        if call.tool_calls or not call.answer:
            return
        said = hash(call.answer)
        if said not in self.seen:
            self.seen.append(said)
            del self.seen[:-MAX_SEEN]
            self.told += 1
            self.told_by = call.id

    def told_since(self, told: int, call: Call) -> int:
        """How much models have said since, but for the wording of what this call asks."""
        return self.told - told - (self.told_by == call.requested_by)

    def _place(self, turn: int) -> int:
        fresh = self.fresh
        place = len(fresh) - 3
        while place >= 0 and fresh[place] != turn:
            place -= 3
        return place

    def limit(self) -> None:
        """Drops the groups used longest ago."""
        self.groups.limit(MAX_GROUPS - len(self.beside) if self.beside else MAX_GROUPS)

    def part(self, call: Call, group: Group, tool: int) -> Group:
        """What the turn of this call has of a group, all of it if it has called nothing of it yet."""
        if group.turn == call.turn or not self.beside:
            return group
        return self.beside.get(mix(mix(tool, group.arguments_hash), call.turn), group)

    def own(self, call: Call, group: Group, tool: int) -> Group:
        """What the turn and the task of this call have of a group that another one has called last."""
        beside = self.beside
        if beside is None:
            beside = self.beside = Recent()
        about, last, own = mix(tool, group.arguments_hash), group, group
        if own.turn != call.turn:
            beside[mix(about, own.turn)] = own
            own = _part(beside, mix(about, call.turn), own, call)
        if own.step == call.step and own.task != call.task:
            about = mix(about, call.turn, call.step)
            beside[mix(about, own.task)] = own
            own = _part(beside, mix(about, call.task), own, call)
        beside.limit(MAX_BESIDE)
        if own.answer == last.answer:
            own.count = max(own.count, last.count)
        return own


class RepeatRule(Rule[Repeats]):
    """Base of the rules about calls that repeat themselves. Abstract."""

    class Settings(RuleSettings):
        """Settings of rules about repeats."""

        block: bool = Field(True, description="In mode `block`: veto the next model call once it is a loop.")
        window_seconds: PositiveFloat = Field(
            300, description="Event time in which `min_calls` calls must fall to be called a loop."
        )
        min_calls: int = Field(3, ge=2, description="Calls in one turn that make a loop (severity high).")
        min_identical_calls: int | None = Field(
            None,
            ge=2,
            description="Identical calls with identical answers that are reported (severity low), however far "
            "apart. Unset: 2 as long as min_calls has its default, else min_calls.",
        )
        similarity: float = Field(
            0.7,
            ge=0,
            le=1,
            description="Word-set similarity from which reworded free text counts as the same.",
        )

    verb: ClassVar[str] = "called"

    settings: Settings

    def __init__(self, settings: RuleSettings, context: RuleContext) -> None:
        super().__init__(settings, context)
        self._concerns: dict[str, bool] = {}

    def new_state(self) -> Repeats:
        return Repeats()

    def outlives(self, state: Repeats) -> bool:
        return bool(state.groups)

    def shrink(self, state: Repeats) -> None:
        state.groups.limit(MAX_GROUPS_IDLE)
        state.recent.clear()
        state.beside = state.at_once = None
        state.fresh = ()
        del state.seen[:]

    @property
    def min_identical(self) -> int:
        """From how many identical calls on a repeat is reported."""
        s = self.settings
        if s.min_identical_calls is not None:
            return s.min_identical_calls
        return 2 if s.min_calls == type(s).model_fields["min_calls"].default else s.min_calls

    @classmethod
    def silencers(cls, evidence: Mapping[str, object], session_id: str) -> list[tuple[str, str]]:
        """As of all rules. Too few calls for a loop are reported for being identical, others for being a loop."""
        calls, loop = evidence.get("calls"), cls.Settings.model_fields["min_calls"].default
        other = "min_identical_calls" if isinstance(calls, int) and calls >= loop else "min_calls"
        found = super().silencers(evidence, session_id)
        return [(setting, why) for setting, why in found if not setting.startswith(f"{cls.name}.{other}=")]

    def concerns(self, kind: Kind, name: str) -> bool:
        """True if tools or retrievers of this name are what the rule is about."""
        raise NotImplementedError

    def observe(self, call: Call, state: Repeats) -> Finding | None:
        if call.kind == "model":
            state.hear(call)
            return None
        concerned = self._concerns.get(call.name)
        if concerned is None:
            if len(self._concerns) > 4096:
                self._concerns.clear()
            concerned = self._concerns[call.name] = self.concerns(call.kind, call.name)
        arguments = call.arguments
        if not concerned or arguments is None or call.status == "cancelled":
            state.note(call)
            return None
        tool = name_hash(call.name)
        known = state.before(call)
        key = mix(tool, asked_for(call, arguments))
        # a model's answer, a request whose model nobody saw, or code, which asks for all between two answers at once
        worded_by = call.requested_by if call.tool_call_id is None else None
        asked_by = call.tool_call_id and (call.requested_by or call.tool_call_id)
        asker = text_hash(asked_by) if asked_by is not None else state.asks
        group = state.groups.get(key)
        if group is None and (similar := self._similar(call, arguments, tool, state)):
            group, before = similar
            other = not (call.items or arguments.says_no_other(before))
            group.reworded = max(group.reworded, REPLACED if other else REWORDED)
            state.groups[key] = group
        paged = mix(tool, arguments.asked, PAGED) if arguments.told == "page" else 0
        if group is None and paged:
            # what was asked for without any part (the first one) stands for the list until a part is
            page = state.groups.get(paged) or state.groups.get(mix(tool, arguments.asked))
            if page is not None and _same_page(call, page):
                group = state.groups[key] = page
                group.reworded = REPLACED
        if group is None:
            self._remember(call, arguments, key, tool, state)
            group = state.groups[key]
            if paged:  # the page that came last stands for the list
                state.groups[paged] = group
                state.limit()
        else:
            if group.turn != call.turn or (group.step == call.step and group.task != call.task):
                group = state.groups[key] = state.own(call, group, tool)
            state.groups.touch(key)
            group.step, group.task = call.step, call.task
            learned = known.news > group.news if group.learned == HANDED else known.learned > group.learned
            mended = known.news > group.news and works_on_all(call)
            state_changed = known.mutations > group.mutations and (is_worth_another_try(call) or mended)
            moved_on = learned and is_change(call)
            overlapping = call.started_at < group.ended_at  # in flight together: asked for side by side
            if _nothing_new(call, group) and not state_changed and not moved_on and not is_under_way(call):
                group.count += 1
                if call.answer != group.answer and not call.items:
                    group.answer = None
                if known.unknown > group.unknown and not group.retold:
                    group.made = NEVER  # what was done in between may have changed something
                together = asker == group.asked_by and (asker != 0 or call.kind == "tool")
                got_on = bool(call.findings and group.findings) and call.findings != group.findings
                # code asks the same once more for the next thing that it has a model write, in a model's words perhaps
                if call.tool_call_id is None and state.told_since(group.told, call) > 0:
                    group.again = 0
                if got_on or group.fresh != known.newest:
                    group.again = 0
                if got_on:  # `Done.` each time, of other things
                    group.findings = call.findings
                if not overlapping and not together:
                    group.again += 1
                    group.add(call, max(MAX_MADE, self.settings.min_calls * MEANT))
                # whoever has not been told yet had to ask, and words that code asks again have cost nothing again
                again = call.conversation in group.conversations and (worded_by is None or worded_by != group.worded_by)
                turn = Turn(
                    call.id,
                    call.requested_by if again else None,
                    call.tool_call_id or call.id,
                    call.siblings,
                    call.ended_at - call.started_at,
                )
                group.unclaimed = (*group.unclaimed, turn)[-MAX_UNCLAIMED:]
            else:
                self._start_anew(group, call)
            group.ended_at = max(group.ended_at, call.ended_at) if overlapping else call.ended_at
            if call.conversation not in group.conversations:
                group.conversations = (*group.conversations, call.conversation)[-MAX_CONVERSATIONS:]
        state.acting |= is_change(call)
        so_far = state.known(call.turn)
        state.note(call, repeated=group.count > 1 and not group.retold and group.learned != HANDED)
        group.asked_by, group.worded_by, group.told = asker, worded_by, state.told
        group.knows(known, so_far, state.known(call.turn))
        return self._judge(call, group) if group.count > 1 else None

    def overlook(self, call: Call, state: Repeats) -> None:
        """What it changed or brought excuses others all the same."""
        if call.kind == "model":
            state.hear(call)
        else:
            state.note(call)

    def _similar(self, call: Call, arguments: Arguments, tool: int, state: Repeats) -> tuple[Group, Arguments] | None:
        """The group of a call in other words, and those words."""
        if arguments.free_text is None or not may_be_reworded(call):
            return None
        for key, before in reversed(state.recent.get(mix(tool, call.turn), ())):
            group = state.groups.get(key)
            if group is not None:
                group = state.part(call, group, tool)
            if (
                group is not None
                and _nothing_new(call, group, reworded=True)
                and call.started_at - group.ended_at <= self.settings.window_seconds
                and arguments.similarity(before) >= self.settings.similarity
                and (call.answer_chars > BRIEF_CHARS or call.items or arguments.says_no_other(before))
            ):
                return group, before
        return None

    @staticmethod
    def _remember(call: Call, arguments: Arguments, key: int, tool: int, state: Repeats) -> None:
        state.groups[key] = Group(call, arguments.fingerprint)
        state.limit()
        if arguments.free_text is not None:
            words = mix(tool, call.turn)
            state.recent[words] = (*state.recent.pop(words, ()), (key, arguments))[-MAX_RECENT:]
            state.recent.limit(MAX_TOOLS)

    @staticmethod
    def _start_anew(group: Group, call: Call) -> None:
        group.answer, group.findings, group.gist = call.answer, call.findings, call.gist
        if call.items:
            found = _packed(call.items)
            known = group.items + _packed(item for item in found if item not in group.items)
            group.items = found if len(known) > MAX_ITEMS * 2 else known
        group.count = 1
        group.again = 0
        group.made = NEVER
        group.add(call)
        group.conversations = _only(call.conversation)
        group.reworded = 0
        group.unclaimed = ()

    def _judge(self, call: Call, group: Group) -> Finding | None:
        s = self.settings
        made = times(group.made, call.turn)
        loop = fall(made, s.min_calls, s.window_seconds)
        identical = not (group.reworded or group.retold or group.blind) and group.count >= self.min_identical
        if not loop and not identical:
            return None
        severity: Severity = "high" if loop else "low"
        often = may_be_meant(call)
        meant = often > 0 and not fall(made, s.min_calls * often, s.window_seconds * often)
        gets_on = group.again < s.min_calls - 1 and (call.status == "ok" or works_on_all(call))
        reworded = group.reworded == REPLACED or (group.reworded and effect_of(call) == "unknown")
        reworded = reworded and group.count < s.min_calls * OTHERS
        if loop and (group.blind or gets_on or meant or reworded or group.retold):
            severity = "medium"
        confidence = 0.55 if group.blind else (0.95, 0.8, 0.6)[group.reworded or group.retold]
        unclaimed, group.unclaimed = group.unclaimed, ()
        how = ("the same", "nearly the same", "similar")[group.reworded]
        back = (
            "what came back was not captured"
            if group.blind
            else "the same error came back"
            if call.status == "error"
            else "only words, ids or times in the answers differed"
            if group.retold
            else "nothing new came back"
        )
        return Finding(
            mix(name_hash(call.name), group.arguments_hash),
            f"{call.name} was {self.verb} {group.count} times with {how} arguments and {back}.",
            claims=tuple(
                Claim(t.requested_by, "turn", unit=t.unit, units=t.units) for t in unclaimed if t.requested_by
            ),
            calls=tuple(t.call_id for t in unclaimed),
            seconds=sum(t.seconds for t in unclaimed),
            severity=severity,
            confidence=confidence,
            evidence={
                "tool": call.name,
                "calls": group.count,
                "arguments_hash": f"{group.arguments_hash & 0xFFFFFFFFFFFFFFFF:016x}",
                "answer_hash": f"{call.answer & 0xFFFFFFFFFFFFFFFF:016x}",
                "answer_chars": call.answer_chars,
                "answer_captured": not group.blind,
                "reworded": bool(group.reworded),
                "retold": group.retold,
                "failed": call.status == "error",
            },
        )


@lru_cache(maxsize=1_024)
def _only(conversation: int) -> tuple[int, ...]:
    """This conversation and no other; most groups of a session are of the same one."""
    return (conversation,)


def _part(beside: Recent[int, Group], whose: int, of: Group, call: Call) -> Group:
    """The part of a group that is told by whose it is, made where there is none."""
    part = beside.pop(whose, None)
    if part is None:
        part = of.handed_to(call)
    beside[whose] = part
    return part


def _same_page(call: Call, group: Group) -> bool:
    """True if another part of a list brought the same, and that at length: no list is that long and all the same."""
    same = call.answer == group.answer and call.answer_chars > PAGE_CHARS and call.status == "ok"
    return same and effect_of(call) in ("looks", "unknown")


def _nothing_new(call: Call, group: Group, *, reworded: bool = False) -> bool:
    """True if the group had already what the call brought.

    An agent that is told something else may say something else of what it found: there its words count.
    """
    if call.answer == group.answer:
        return True
    if not reworded:
        if call.findings == group.findings != 0:
            return True
        if call.gist == group.gist != 0 and not brings_another(call.name):
            return True
    return bool(call.items) and set(group.items).issuperset(_packed(call.items))


def _packed(items: Iterable[int]) -> array[int]:
    """Fingerprints of items, at an eighth of the memory of a set."""
    return array("q", (hash(item) for item in islice(items, MAX_ITEMS)))
