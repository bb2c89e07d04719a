"""`tool_loop`: one tool, the same arguments, the same answer, again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ts_langchain.rules.effects import asks_a_person, is_meant_again
from ts_langchain.rules.handoff_loop import is_handoff
from ts_langchain.rules.repeats import RepeatRule
from ts_langchain.rules.rerank_thrash import is_rerank
from ts_langchain.rules.retrieval_thrash import is_retrieval

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.call import Kind


class ToolLoop(RepeatRule):
    """One tool is called again with the same or nearly the same arguments and nothing new comes back.

    Fires when a tool got the same arguments `min_identical_calls` times and answered the same each time (severity
    low), and again when `min_calls` such calls fall into `window_seconds` of event time and one turn: what an agent
    does in answer to one request (severity high: a loop). Calls asked for in one message count as one, and so do
    those that code makes before a model is asked again. Severity medium for what changes something and succeeds
    (`add_to_cart`), up to twice as many calls, since it may be meant, and up to four times as many for steps from
    where one is (`scroll`, `press_key`, `undo`); so for tools of which nobody can say what they do, for code where
    a word is all that comes back (`ok`), and where whoever answers is not there for now (503, too many requests);
    for reworded calls of a tool of which nobody can say what it does, or with words in place of others; and where
    other calls bring something new between the repeats (an agent that reads the clock before each step): it is
    waste, and gets on.

    Arguments are compared field by field: a changed id, path, date, number, name or recipient is a different call;
    only free text may be reworded (`similarity`), where it is not what the call is about (`send_…`, `translate`,
    `verify_…`, `bash`, `think`); where the answer is short (`nothing found`), not by other words in place of some.
    Another part of a list (`page`, `offset`, `cursor`) that brings the same at length is the same call, severity
    medium up to eight times as many. Why something is looked at (`explanation`, `description` beside a command)
    does not count. In answers, what is technical does not count: ids of the request and times that it took
    (`request_id`, `response_time`), how long a test run or a build took, headers of HTTP, addresses in memory,
    temporary folders.

    Severity medium, from `min_calls` on, where the answers differ in what may be technical alone (a `timestamp`, a
    UUID, a latency, the time they were made at), but for tools named like `next_job` or `get_time`. And where a tool
    runs an agent of its own in LangGraph (`task` of deep agents), which words its answer differently each time, while
    the tools inside it gave the same each time.

    Does not fire on: a call whose answer changes; polling and waiting (by name, or because the short answer says
    that something is still under way) and what is left to chance (`roll_dice`); a question to a person (`ask_user`,
    `human`), who may well say yes again; a call that is made again after another one changed something
    (`edit_file`, `set_…`, `bash`), be it a test, a look or the next change, unless it is a change that keeps
    failing (what works on all that was changed, to build or to submit it, may); what is done again after a look at
    something new (click, read the next page, click); search tools, which `retrieval_thrash` looks after; handing
    over to another agent, which `handoff_loop` looks after.

    Wasted: the model turn that asked for the repeat; the whole turn if all its tool calls were repeats, else
    the output tokens of those that were. Nothing in a conversation that has not been told yet: there it had to ask.

    Differs from the known definition: the window is 300 s instead of 60 s, because three turns of a real agent
    often take longer than a minute, and the answer decides, not the arguments alone.
    """

    name = "tool_loop"
    specificity = 40
    kinds: ClassVar[frozenset[Kind]] = frozenset({"tool", "model"})
    suggestion = "Tell the model what it already tried and what came back, or stop the run."
    thresholds: ClassVar[Mapping[str, str]] = {"min_calls": "calls", "min_identical_calls": "calls"}

    class Settings(RepeatRule.Settings):
        """Settings of tool_loop."""

        polling_tools: frozenset[str] = Field(
            frozenset(),
            description="More tools that poll, besides those named like check_status, poll, wait_for.",
        )

    settings: Settings

    def concerns(self, kind: Kind, name: str) -> bool:
        if kind != "tool" or name in self.settings.polling_tools or is_meant_again(name) or asks_a_person(name):
            return False
        if "handoff_loop" in self.context.active and is_handoff(name):
            return False
        if "rerank_thrash" in self.context.active and is_rerank(name):
            return False
        return "retrieval_thrash" not in self.context.active or not is_retrieval(name)
