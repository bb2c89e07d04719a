"""Tool calls that models ask for in words: they are calls as all others."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from classic import FORMS, executor, lookup, script
from langchain_classic.agents import AgentExecutor, create_react_agent
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import Tool
from langgraph.graph import START, MessagesState, StateGraph

from ts_langchain import CallRefused, Sentinel, TokenSentinelHandler, WasteBlocked, guard_model
from ts_langchain.capture.in_words import asked_in_words, final_in_words
from ts_langchain.testing import ScriptedChatModel

LOOK = {"min_severity": "high", "steps": [{"at": 1, "do": "steer"}, {"at": 3, "do": "stop"}]}


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("Thought: hm\nAction: search\nAction Input: the weather", ("search", "the weather")),
        ('Action: search \nAction Input: "the weather" ', ("search", "the weather")),
        ("Action 2: search\nAction 2 Input:\nline one\nline two", ("search", "line one\nline two")),
        ('Action: search\nAction Input: {"q": "a"}', ("search", '{"q": "a"}')),
        ('Action:\n```\n{"action": "search", "action_input": {"q": "a"}}\n```', ("search", {"q": "a"})),
        ('{"action": "search", "action_input": "a"}', ("search", "a")),
        ('{"action": "now"}', ("now", {})),
        ('{"action": "now", "action_input": null}', ("now", {})),
        ("<tool>search</tool>\n<tool_input>a", ("search", "a")),
        ("<tool>now</tool>", ("now", "")),
        ("I know.\nFinal Answer: it rains", None),
        ("Action: search\nAction Input: a\nObservation: b\nFinal Answer: b", None),
        ('```json\n{"action": "Final Answer", "action_input": "it rains"}\n```', None),
        ("<final_answer>it rains</final_answer>", None),
        ("Call to Action: subscribe now", None),
        ("Action: search", None),
        ('He said "action" and {then} left', None),
        ('{"action": {"name": "search"}}', None),
        ('[{"action": 1}]', None),
        ('{"action": "approve", "reason": "all is there"}', None),
        ('{"thought": "hm", "action": "search", "action_input": "a"}', ("search", "a")),
        ("", None),
    ],
)
def test_what_is_asked_for(text: str, asked: object) -> None:
    assert asked_in_words(text) == asked


HOSTILE = """
from ts_langchain.capture.in_words import asked_in_words
texts = ["Action:" * 9_000, "Action: a\\n" * 6_000, "Action:" + " " * 60_000, "Action: a" + "\\n" * 60_000 + "b"]
texts += ["<tool>" * 10_000, '"action"' + "{" * 60_000]
assert [asked_in_words(text) for text in texts] == [None] * 6
"""


def test_hostile_words_are_read_to_the_end() -> None:
    """They take milliseconds; where an expression tries all ways to match, hours."""
    subprocess.run([sys.executable, "-c", HOSTILE], check=True, timeout=120)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (["Answer the question."], "Stopped."),
        (["s", "end with Final Answer: and your answer"], "Final Answer: Stopped."),
        (['{"action": "Final Answer", "action_input": …}'], '{"action":"Final Answer","action_input":"Stopped."}'),
        (["between <final_answer></final_answer>"], "<final_answer>Stopped.</final_answer>"),
    ],
)
def test_the_last_answer_is_in_the_form_that_is_asked_for(prompt: list[str], said: str) -> None:
    assert final_in_words("Stopped.", prompt) == said


def run(form: str, model: Any, handler: TokenSentinelHandler, question: str = "What?") -> str:
    answer = executor(form, model).invoke({"input": question}, {"callbacks": [handler]})["output"]
    assert handler.sentinel.health().ok
    return str(answer)


def calls_of(handler: TokenSentinelHandler) -> list[Any]:
    """All calls that are seen from now on."""
    calls: list[Any] = []
    observe = handler.sentinel.observe
    handler.sentinel.observe = lambda call: (calls.append(call), observe(call))[1]  # type: ignore[method-assign]
    return calls


@pytest.mark.parametrize("form", FORMS)
def test_a_loop_of_a_classic_agent_costs_what_its_turns_cost(form: str) -> None:
    handler = TokenSentinelHandler()
    calls = calls_of(handler)
    assert run(form, ScriptedChatModel(script=script(form, *"zzzzz")), handler) == "both"
    models = [c for c in calls if c.kind == "model"]
    tools = [c for c in calls if c.kind == "tool"]
    assert [c.requested_by for c in tools] == [c.id for c in models[:-1]]
    assert len({c.turn for c in calls}) == 1
    (incident,) = handler.sentinel.incidents()
    assert (incident.rule, incident.severity) == ("retrieval_thrash", "high")
    assert incident.wasted_tokens == sum(c.usage.total_tokens for c in models[1:-1])


@pytest.mark.parametrize("form", FORMS)
def test_a_classic_agent_that_gets_on_is_left_alone(form: str) -> None:
    handler = TokenSentinelHandler(mode="block")
    for question in ("What?", "And now?", "And tomorrow?"):
        assert run(form, ScriptedChatModel(script=script(form, "a", "b", "z")), handler, question) == "both"
    assert handler.sentinel.incidents() == []


@pytest.mark.parametrize("form", FORMS)
def test_a_classic_agent_is_blocked_and_stopped(form: str) -> None:
    model = ScriptedChatModel(script=script(form, *"zzzzzzzz"))
    with pytest.raises(WasteBlocked):
        run(form, model, TokenSentinelHandler(mode="block"))
    assert model.calls == 3
    sentinel = Sentinel(policy={"rules": {"retrieval_thrash": LOOK}})
    model = ScriptedChatModel(script=script(form, *"zzzzzzzz"))
    said = run(form, guard_model(model, sentinel), TokenSentinelHandler(sentinel))
    assert said.startswith("I stopped here, before another model call.")
    assert model.calls == 5
    assert [d.action for d in sentinel.decisions()] == ["steer", "steer", "stop"]


@pytest.mark.parametrize("form", FORMS)
def test_a_budget_ends_a_classic_agent_with_an_answer_that_it_reads(form: str) -> None:
    sentinel = Sentinel(policy={"budgets": [{"per": "run", "calls": 2}]})
    model = ScriptedChatModel(script=script(form, *"ab"))
    assert "budget of 2 calls per run" in run(form, guard_model(model, sentinel), TokenSentinelHandler(sentinel))
    assert model.calls == 2
    with pytest.raises(CallRefused):
        run(form, ScriptedChatModel(script=script(form, *"ab")), TokenSentinelHandler(sentinel, mode="block"))


def test_what_ends_with_a_tool_goes_on_in_no_other_run() -> None:
    handler = TokenSentinelHandler(mode="block")
    calls = calls_of(handler)
    ask = Tool("lookup", lambda _: "not found here", "Looks something up.", return_direct=True)
    config: Any = {"callbacks": [handler], "metadata": {"thread_id": "t"}}
    for _ in range(6):
        agent = create_react_agent(ScriptedChatModel(script=[FORMS["react"].ask % "z"]), [ask], FORMS["react"].prompt)
        AgentExecutor(agent=agent, tools=[ask]).invoke({"input": "What?"}, config)
    assert len({c.turn for c in calls}) == 6
    assert [i.severity for i in handler.sentinel.incidents()] == ["low"]


def test_what_was_asked_for_and_never_run_is_of_its_own_run() -> None:
    handler = TokenSentinelHandler()
    calls = calls_of(handler)
    config: Any = {"callbacks": [handler], "metadata": {"thread_id": "t"}}
    ScriptedChatModel(script=[FORMS["react"].ask % "z"]).invoke("How would you look?", config)
    for _ in range(3):
        executor("react", ScriptedChatModel(script=script("react", "z"))).invoke({"input": "What?"}, config)
    assert list(Counter(c.turn for c in calls).values()) == [1, 3, 3, 3]
    assert list(Counter(c.root_id for c in calls).values()) == [1, 3, 3, 3]


async def test_agents_side_by_side_keep_their_turns() -> None:
    handler = TokenSentinelHandler()
    calls = calls_of(handler)
    both: Any = StateGraph(MessagesState)
    for name in "xy":
        inner = executor("react", ScriptedChatModel(script=script("react", *"zzzzz")))

        async def node(_: Any, config: RunnableConfig, name: str = name, inner: Any = inner) -> dict[str, Any]:
            await inner.ainvoke({"input": f"What of {name}?"}, config)
            return {}

        both.add_node(name, node).add_edge(START, name)
    await both.compile().ainvoke({"messages": []}, {"callbacks": [handler]})
    assert sorted(Counter(c.turn for c in calls).values()) == [11, 11]
    assert {c.node for c in calls} == set("xy")


def test_answers_in_fields_of_their_own_are_answers() -> None:
    now = 1_790_000_000.0
    handler = TokenSentinelHandler(clock=lambda: now)
    said = [json.dumps({"action": ["approve", "reject"][n % 2], "reason": f"rule {n}"}) for n in range(60)]
    model = ScriptedChatModel(script=list(said))

    def review(_: Any, config: RunnableConfig) -> None:
        nonlocal now
        for n in range(60):
            now += 60
            model.invoke(f"Decide on case {n}.", config)

    RunnableLambda(review).invoke(None, {"callbacks": [handler]})
    assert handler.sentinel.incidents() == []


def test_words_are_not_kept_as_names_of_tools() -> None:
    handler = TokenSentinelHandler()
    model = ScriptedChatModel(script=[json.dumps({"action": "call Ada Lovelace"})] * 3).bind_tools([lookup])
    for n in range(3):
        model.invoke(f"Case {n}?", {"callbacks": [handler], "metadata": {"thread_id": "t"}})
    assert b"Lovelace" not in pickle.dumps(handler.sentinel.states())


def test_a_model_that_knows_tools_asks_for_none_in_words() -> None:
    handler = TokenSentinelHandler()
    calls = calls_of(handler)
    for form in FORMS.values():
        model = ScriptedChatModel(script=[f"Agents write so:\n{form.ask % 'z'}"] * 2)
        for asked in (model, model.bind_tools([lookup])):
            asked.invoke("How do agents write?", {"callbacks": [handler]})
    assert [len(c.tool_calls) for c in calls] == [1, 0] * len(FORMS)


def test_a_loop_by_hand() -> None:
    handler = TokenSentinelHandler(mode="block")
    config: Any = {"callbacks": [handler], "metadata": {"thread_id": "t"}}
    model = ScriptedChatModel(script=script("react", *"zzzzz"))
    form, said = FORMS["react"], "Question: What?\nThought:"

    def loop() -> None:
        nonlocal said
        while (answer := str(model.invoke(said, config).content)) != form.final:
            said += f"{answer}\nObservation: {lookup.invoke('z', config)}\nThought:"

    with pytest.raises(WasteBlocked):
        loop()
    assert model.calls == 3
    assert handler.sentinel.incidents()[0].wasted_tokens > 0
