"""Model calls as providers bill them: images, tool definitions and caches beside the text. Real models, real agents."""

from __future__ import annotations

import asyncio
import base64
import itertools
from typing import TYPE_CHECKING, Any

import pytest
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.tools import BaseTool, StructuredTool

from ts_langchain import Sentinel, TokenSentinelHandler
from ts_langchain.rules.rerank_thrash import is_rerank
from ts_langchain.testing import ScriptedChatModel, call_tool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.outputs import ChatResult

    from ts_langchain.incident import Incident

pytestmark = pytest.mark.usefixtures("calm_collector")

START_TIME = 1_790_000_000.0


def watched(**settings: Any) -> TokenSentinelHandler:
    """A handler whose clock moves on a second each time that it is read."""
    moments = itertools.count(1)
    return TokenSentinelHandler(Sentinel(settings=settings), session_id="s", clock=lambda: START_TIME + next(moments))


def found(handler: TokenSentinelHandler, rule: str) -> list[Incident]:
    assert handler.sentinel.health().ok
    return [i for i in handler.sentinel.incidents() if i.rule == rule]


def answer(text: str, sent: int, got: int = 20, *, cached: int = 0, **more: Any) -> AIMessage:
    usage: Any = {"input_tokens": sent, "output_tokens": got, "total_tokens": sent + got}
    return AIMessage(text, usage_metadata={**usage, "input_token_details": {"cache_read": cached}}, **more)


def shown(number: int, text: str) -> HumanMessage:
    data = base64.b64encode(bytes([number]) * 3_000).decode()
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    return HumanMessage([{"type": "text", "text": text}, picture])


def tools(prefix: str, number: int, size: int) -> list[BaseTool]:
    """So many tools with descriptions of so many characters."""
    return [
        StructuredTool.from_function(lambda x="": f"{prefix} says {x}", name=f"{prefix}_{n}", description="d" * size)
        for n in range(number)
    ]


def steps(number: int, *, instructions: Any = None, window: int = 100, workers: int = 1) -> TokenSentinelHandler:
    """Agents that use a computer: a new screenshot each step, and those before in the history."""
    handler, model = watched(), ScriptedChatModel(script=[answer("click", 6_000)])
    said: list[list[BaseMessage]] = [[] for _ in range(workers)]
    for step in range(number):
        for worker, history in enumerate(said):
            history.append(shown(step * workers + worker, f"screen {step} of {worker}"))
            opening = [SystemMessage(instructions(step))] if instructions else []
            model.invoke([*opening, *history[-window:]], {"callbacks": [handler]})
            history.append(AIMessage(f"click {step} of {worker}"))
    return handler


def test_screenshots_of_the_history_are_not_sent_anew() -> None:
    """However it is read: under a time that changes, in a window that moves on, beside those of other workers."""
    assert not found(steps(8, instructions=lambda step: f"It is {step} o'clock."), "vision_re_upload")
    assert not found(steps(12, window=5), "vision_re_upload")
    assert not found(steps(6, workers=5, instructions=lambda _: "You use a computer."), "vision_re_upload")


def test_an_image_that_is_shown_with_each_question_is() -> None:
    handler, model = watched(), ScriptedChatModel(script=[answer("It is red.", 900)])
    history: list[BaseMessage] = []
    for number in range(4):
        history.append(shown(7, f"question {number}"))
        model.invoke(history, {"callbacks": [handler]})
        history.append(AIMessage(f"It is red {number}."))
    assert [i.evidence["uploads"] for i in found(handler, "vision_re_upload")] == [4]


def test_a_reference_that_each_photo_is_compared_with_is_not() -> None:
    handler, model = watched(), ScriptedChatModel(script=[answer("It is the same model.", 1_700)])
    for number in range(6):
        photo = shown(number, "Is it like the reference?")
        photo.content = [*photo.content, *shown(200, "The reference.").content]
        model.invoke([SystemMessage("You compare."), photo], {"callbacks": [handler]})
    assert not found(handler, "vision_re_upload")
    for number in range(3):  # of all of which it is known what they show
        photo.content = [*photo.content[1:], {"type": "text", "text": f"Question {number}?"}]
        model.invoke([SystemMessage("You compare."), photo], {"callbacks": [handler]})
    assert len(found(handler, "vision_re_upload")) == 1


def test_images_that_are_attached_again_beside_a_new_one_are() -> None:
    handler, model = watched(), ScriptedChatModel(script=[answer("I see.", 6_000)])
    history: list[BaseMessage] = []
    for number in range(5):
        so_far = [part for n in range(number + 1) for part in shown(n, f"Question {number}?").content]
        history.append(HumanMessage(so_far))  # type: ignore[arg-type]
        model.invoke(history, {"callbacks": [handler]})
        history.append(AIMessage(f"I see {number}."))
    assert found(handler, "vision_re_upload")


def test_images_that_differ_are_no_common_beginning() -> None:
    """487 characters are the same in each request of 9 000 tokens."""
    handler, model = watched(), ScriptedChatModel(script=[answer("A small red car, parked.", 9_000)])
    for number in range(8):
        model.invoke([SystemMessage("You tell of cars. " * 27), shown(number, "?")], {"callbacks": [handler]})
    assert not found(handler, "cache_miss")


def test_tool_definitions_are_part_of_the_beginning() -> None:
    handler = watched(**{"tool_loop.enabled": False})
    script = [call_tool("t_1", x=str(n)) for n in range(6)]
    model = ScriptedChatModel(script=[*[answer("", 5_000, tool_calls=s.tool_calls) for s in script], "done"])
    create_agent(model, tools("t", 10, 2_000)).invoke({"messages": [("user", "go")]}, {"callbacks": [handler]})
    (missed,) = found(handler, "cache_miss")
    prefix = missed.evidence["prefix_tokens"]
    assert isinstance(prefix, int)
    assert 4_900 < prefix < 5_000


def researched(definitions: int) -> list[Incident]:
    """A page of 12 000 characters that nothing uses, beside ten tools of so many characters."""
    handler = watched()
    page = StructuredTool.from_function(lambda: "lorem ipsum " * 1_000, name="page", description="A page.")
    count = StructuredTool.from_function(lambda n: f"{n * 7919}", name="count", description="Counts.")
    asked: list[AIMessage] = [call_tool("page"), *(call_tool("count", n=n) for n in range(8))]
    sent = 3_200 + definitions * 10 // 4
    script = [*(answer("", sent, tool_calls=a.tool_calls) for a in asked), answer("done", sent)]
    agent = create_agent(ScriptedChatModel(script=script), [page, count, *tools("t", 10, definitions)])
    agent.invoke({"messages": [("user", "go")]}, {"callbacks": [handler]})
    return found(handler, "dead_context")


def test_dead_context_is_not_what_tool_definitions_take() -> None:
    (alone,) = researched(0)
    (beside,) = researched(2_000)  # 5 000 tokens more, of which nothing is dead
    assert beside.calls == alone.calls
    for dead in (alone, beside):
        assert 0.8 * 3_000 < dead.wasted_tokens / dead.calls < 3_200
    assert not researched(8_000)  # 14 % of the input


def test_repeated_text_is_not_what_images_take() -> None:
    """A block of 6 000 characters said in each turn, beside screenshots that take most of the input."""
    handler, history = watched(), []
    block = "The same block of text, again and again. " * 150
    model = ScriptedChatModel(script=[answer("seen", 12_000 * n) for n in range(1, 13)])
    sent: Sequence[BaseMessage]
    for step in range(12):
        history += [HumanMessage(block), *(shown(step * 9 + n, f"screen {step} {n}") for n in range(9))]
        sent = list(history)
        model.invoke(sent, {"callbacks": [handler]})
        history.append(AIMessage(f"seen {step}"))
    (bloat,) = found(handler, "context_bloat")
    assert bloat.findings == 8
    assert 0 < bloat.wasted_input_tokens < sum(n * len(block) // 2 for n in range(4, 12))


def test_tools_that_were_read_from_the_cache_cost_what_that_costs() -> None:
    """16 000 tokens of tools in requests of 48 000; what stands in front is what the cache holds."""
    handler = watched()
    asked = [call_tool("t_1", x=str(n)) for n in range(5)]
    script = [*(answer("", 48_000, cached=20_000, tool_calls=a.tool_calls) for a in asked), answer("done", 48_000)]
    agent = create_agent(ScriptedChatModel(script=script), tools("t", 40, 1_500))
    agent.invoke({"messages": [("user", "go" * 30_000)]}, {"callbacks": [handler]})
    (bloat,) = found(handler, "tool_definition_bloat")
    read, fresh = 1.25, 2.5  # gpt-4o, USD per million tokens
    most = (bloat.wasted_tokens * 5 / 6 * read + bloat.wasted_tokens / 6 * fresh) / 1e6
    assert bloat.calls == 6
    assert bloat.wasted_usd == pytest.approx(most, rel=0.01)


def test_each_agent_has_tools_of_its_own() -> None:
    """What has gone along with two calls was not offered often, whatever other agents of the session did."""
    handler = watched(**{"tool_loop.enabled": False})
    few = [call_tool("few_1", x=str(n)) for n in range(9)]
    for own, script in (
        (tools("few", 2, 50), [*few, "done"]),
        *((tools(name, 5, 1_000), [call_tool(f"{name}_1"), "done"]) for name in ("a", "b", "c")),
        *((tools(name, 35, 200), [call_tool(f"{name}_1"), "done"]) for name in ("many", "more", "most")),
    ):
        create_agent(ScriptedChatModel(script=script), own).invoke(
            {"messages": [("user", "go")]}, {"callbacks": [handler]}
        )
    assert not found(handler, "unused_tools")
    assert not found(handler, "tool_definition_bloat")


def test_each_agent_is_told_of_its_own_tools() -> None:
    handler = watched(**{"tool_loop.enabled": False})
    agents = [
        create_agent(ScriptedChatModel(script=[call_tool(f"{name}_1"), "done"] * 9), tools(name, 35, 200 + size))
        for size, name in enumerate(("many", "more"))
    ]
    for turn in range(3):
        for agent in agents:
            agent.invoke({"messages": [("user", f"go {turn} " * 4_000)]}, {"callbacks": [handler]})
    (bloat,) = found(handler, "tool_definition_bloat")
    assert bloat.calls == 12
    assert bloat.evidence["calls"] == 6
    assert bloat.wasted_input_tokens == 6 * sum(tokens_of_unused(200 + size) for size in range(2))


def tokens_of_unused(size: int) -> int:
    handler = watched()
    script = [call_tool("many_1"), "done"] * 9
    agent = create_agent(ScriptedChatModel(script=script), tools("many", 35, size))
    for turn in range(2):
        agent.invoke({"messages": [("user", f"go {turn} " * 4_000)]}, {"callbacks": [handler]})
    (bloat,) = found(handler, "tool_definition_bloat")
    unused = bloat.evidence["unused_bytes"]
    assert isinstance(unused, int)
    return unused // 4


def test_streams_that_were_read_are_not_unread() -> None:
    """Left at their last chunk, which reports the usage: whatever was thought before, and in whatever script."""
    for text, got, thought in (("one two three " * 20, 870, 800), ("你好世界" * 50, 200, 0)):
        details: Any = {"output_token_details": {"reasoning": thought}}
        usage: Any = {"input_tokens": 300, "output_tokens": got, "total_tokens": 300 + got, **details}
        handler, model = watched(), ScriptedChatModel(script=[AIMessage(text, usage_metadata=usage)])
        for number in range(3):
            stream = model.stream(f"Question {number}?", {"callbacks": [handler]})
            for chunk in stream:
                if chunk.usage_metadata:
                    break
            stream.close()  # type: ignore[attr-defined]
        (incident,) = found(handler, "abandoned_stream")
        assert (incident.severity, incident.wasted_tokens) == ("low", 0)


def test_an_answer_that_was_cut_off_and_is_kept_in_a_cache_is_used() -> None:
    cut = answer("Once upon a time", 900, 500, response_metadata={"finish_reason": "length"})
    for cache, times in ((InMemoryCache(), 1), (None, 3)):
        handler, model = watched(), ScriptedChatModel(script=[cut], cache=cache)
        for _ in range(3):
            model.invoke("Tell me a story.", {"callbacks": [handler]})
        assert model.calls == times
        assert [i.calls for i in found(handler, "truncated_output")] == [times - 1] * (times > 1)


def test_a_judge_of_one_token_is_not_cut_off() -> None:
    cut = answer("A", 900, 1, response_metadata={"finish_reason": "length"})
    handler, model = watched(), ScriptedChatModel(script=[cut])
    for _ in range(5):
        model.bind(max_tokens=1).invoke("Which is better, A or B?", {"callbacks": [handler]})
    assert not found(handler, "truncated_output")


async def test_votes_under_way_together_are_no_duplicates() -> None:
    """A model that reasons takes no temperature, and a majority says the same."""
    under_way = asyncio.Barrier(5)

    class Voter(ScriptedChatModel):
        async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
            await under_way.wait()
            return self._generate(messages)

    handler, model = TokenSentinelHandler(), Voter(script=[answer("B", 900)], model_name="o3")
    await model.abatch(["Which of them?"] * 5, {"callbacks": [handler]})
    assert model.calls == 5
    assert not found(handler, "duplicate_work")


@pytest.mark.parametrize("name", ["compare_rankings", "scoreRank", "core_rank"])
def test_what_compares_rankings_is_no_reranker(name: str) -> None:
    handler = watched()
    tool = StructuredTool.from_function(lambda: "nothing new", name=name, description="Compares.")
    model = ScriptedChatModel(script=[*[call_tool(name)] * 6, "done"])
    create_agent(model, [tool]).invoke({"messages": [("user", "go")]}, {"callbacks": [handler]})
    assert not found(handler, "rerank_thrash")
    assert [i.severity for i in found(handler, "tool_loop")] == ["high"]


@pytest.mark.parametrize("name", ["rerank", "re_rank", "re-rank", "CohereRerank", "reRank", "cohere_rerank", "RE_RANK"])
def test_rerankers_are_told_by_their_names(name: str) -> None:
    assert is_rerank(name)


@pytest.mark.parametrize(("line", "times"), [("Yes!", 0), ("Welcome to the show", 0), ("Welcome to the show.", 1)])
def test_a_short_line_may_be_spoken_by_several(line: str, times: int) -> None:
    handler = watched()
    speak = StructuredTool.from_function(lambda text, voice: f"{voice}: {text}", name="speak", description="Speaks.")
    script = [*(call_tool("speak", text=line, voice=voice) for voice in ("anna", "bob", "carl")), "done"]
    agent = create_agent(ScriptedChatModel(script=script), [speak])
    agent.invoke({"messages": [("user", "Perform it.")]}, {"callbacks": [handler]})
    assert len(found(handler, "voice_switching_loop")) == times
