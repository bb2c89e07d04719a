"""Agents in worlds that answer as real toolkits do: sweeps, builds, batches, polls. None of them may be stopped."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ToolRetryMiddleware
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import BaseTool, InjectedToolCallId, StructuredTool, ToolException, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import InjectedState
from langgraph.types import Command

from ts_langchain import TokenSentinelHandler
from ts_langchain.testing import ScriptedChatModel, call_tool

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("calm_collector")

DONE = AIMessage("All done, here is the report.")
START_TIME = 1_790_000_000.0


def ticking(seconds: float) -> Callable[[], float]:
    """A clock that moves on so far each time that it is read."""
    moments = itertools.count(1)
    return lambda: START_TIME + seconds * next(moments)


def a_tool(name: str, answer: Callable[..., Any] | str) -> BaseTool:
    """A tool of this name; an exception that it returns is raised."""

    def call(**given: Any) -> Any:
        said = answer(**given) if callable(answer) else answer
        if isinstance(said, Exception):
            raise said
        return said

    properties = {"type": "object", "properties": {}, "additionalProperties": True}
    return StructuredTool(name=name, description="A tool.", func=call, args_schema=properties, handle_tool_error=True)


@dataclass
class World:
    """What an agent does, and what is told of it."""

    script: list[AIMessage]
    tools: list[BaseTool]
    told: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.5


def each(steps: int, *asked: tuple[str, Callable[[int], dict[str, Any]]]) -> list[AIMessage]:
    """So many rounds of these calls, with arguments by the number of the round."""
    return [call_tool(name, **given(n)) for n in range(steps) for name, given in asked]


def counting(*parts: str) -> Callable[..., str]:
    """Says another one of these each time."""
    turns = itertools.count()
    return lambda **_: parts[next(turns) % len(parts)]


NOTHING = (
    "No results matched the query in the given time range. Try other terms, a longer range, or fewer filters. (0 hits)"
)
BOTO3 = json.dumps(
    {"Reservations": [], "ResponseMetadata": {"RequestId": "a" * 36, "HTTPStatusCode": 200, "RetryAttempts": 0}}
)
EMPTY = json.dumps(
    {"took": 3, "timed_out": False, "_shards": {"total": 5}, "hits": {"total": {"value": 0}, "hits": []}}
)
BUTTONS = ("save", "close", "open", "print", "send", "copy", "move")
SERVICES = ("billing", "checkout", "search", "login", "cart", "mail")


def outage(says: str) -> World:
    """Whoever answers is back at the fifth try."""
    fails = iter([*[ToolException(says)] * 4, "Invoice 7: 120 EUR, paid"])
    return World(
        each(5, ("get_invoice", lambda _: {"number": 7})),
        [a_tool("get_invoice", lambda **_: next(fails))],
        {"tool_loop": "medium", "error_loop": "medium"},
    )


def built(name: str) -> World:
    """Edited, built, and its log read, until it works; the first line of the failure is always the same."""
    fails = iter([*[ToolException("exit code 1, see build.log")] * 4, "ok"])
    script = each(
        5,
        ("edit_file", lambda n: {"path": "main.py", "text": f"attempt {n}"}),
        (name, lambda _: {}),
        ("read_log", lambda n: {"tail": 50, "attempt": n}),
    )
    log = counting(*(f"line {n}: undefined name x{n}" for n in range(9)))
    return World(
        script, [a_tool("edit_file", "edited"), a_tool(name, lambda **_: next(fails)), a_tool("read_log", log)]
    )


WORLDS: dict[str, Callable[[], World]] = {
    **{name: lambda name=name: built(name) for name in ("build_project", "deploy", "git_commit", "start_server")},
    **{
        f"an outage: {says}": lambda says=says: outage(says)
        for says in (
            "503 Service Unavailable",
            "HTTPStatusError: Server error '502 Bad Gateway' for url 'https://api.example/invoices/7'",
            "Error: too many requests, slow down",
            "ConnectError: [Errno 111] Connection refused",
            "RateLimitError",
        )
    },
    "a cookie banner that the next shops do not have": lambda: World(
        each(
            6,
            ("browser_navigate", lambda n: {"url": f"https://shop{n}.example"}),
            ("browser_click", lambda _: {"selector": "#accept-cookies"}),
            ("browser_get_text", lambda n: {"part": n}),
        ),
        [
            a_tool("browser_navigate", lambda url: f"at {url}"),
            a_tool("browser_click", lambda **_: ToolException("Timeout 5000ms exceeded: no element matches")),
            a_tool("browser_get_text", counting(*(f"price {n}" for n in range(9)))),
        ],
    ),
    "leads that one provider does not know": lambda: World(
        each(10, ("get_company", lambda n: {"id": n}), ("find_person", lambda n: {"email": f"p{n}@x.example"})),
        [a_tool("get_company", lambda id: f"company {id}"), a_tool("find_person", lambda **_: ToolException("404"))],  # noqa: A006
        {"error_loop": "medium"},
    ),
    "firms that nobody knows, by a tool of which nobody knows what it does": lambda: World(
        each(10, ("enrich", lambda n: {"domain": f"{SERVICES[n % 6]}{n}.example"})),
        [a_tool("enrich", json.dumps({"error": {"type": "unknown_record", "message": "Unknown company."}}))],
        {"error_loop": "medium"},
    ),
    "links that are dead": lambda: World(
        each(10, ("http_get", lambda n: {"url": f"https://x.example/{n}"})),
        [a_tool("http_get", "Error: 404 Not Found")],
        {"error_loop": "medium"},
    ),
    "slots that are taken": lambda: World(
        each(10, ("book_slot", lambda n: {"day": "2026-12-01", "at": f"{9 + n}:00"})),
        [a_tool("book_slot", lambda at, **_: "booked" if at == "18:00" else ToolException("This slot is taken."))],
        {"error_loop": "medium"},
    ),
    "namespaces without the service": lambda: World(
        each(10, ("bash", lambda n: {"command": f"kubectl get service api -n team-{n}"})),
        [a_tool("bash", lambda **_: ToolException('Error from server (NotFound): services "api" not found'))],
        {"error_loop": "medium"},
    ),
    "regions without instances": lambda: World(
        each(
            8,
            ("describe_instances", lambda n: {"region": f"eu-{n}"}),
            ("describe_volumes", lambda n: {"region": f"eu-{n}"}),
        ),
        [a_tool("describe_instances", BOTO3), a_tool("describe_volumes", BOTO3)],
        {"ping_pong": "medium", "zombie": "medium"},
        seconds=12,
    ),
    "symbols that nothing refers to": lambda: World(
        each(40, ("find_references", lambda n: {"symbol": f"f{n}"})),
        [a_tool("find_references", "No references found.")],
        {"zombie": "medium"},
        seconds=4,
    ),
    "services without errors": lambda: World(
        each(6, ("search_logs", lambda n: {"query": f"errors and timeouts of the {SERVICES[n]} service since noon"})),
        [a_tool("search_logs", NOTHING)],
        {"retrieval_thrash": "medium"},
    ),
    "claims that are right": lambda: World(
        each(
            6, ("verify_claim", lambda n: {"claim": f"the {SERVICES[n]} team has reached all of its goals this year"})
        ),
        [a_tool("verify_claim", json.dumps({"verdict": "supported", "why": "x" * 120}))],
    ),
    "clauses with one beginning": lambda: World(
        each(6, ("look_up", lambda n: {"text": f"{'this agreement is made by and between ' * 20} {SERVICES[n]}"})),
        [a_tool("look_up", NOTHING)],
    ),
    "an editor called search_replace": lambda: World(
        each(
            6, ("search_replace", lambda n: {"file": "a.py", "old": f"x{n}", "new": "y"}), ("run_tests", lambda _: {})
        ),
        [a_tool("search_replace", "replaced"), a_tool("run_tests", lambda **_: ToolException("1 failed, 3 passed"))],
    ),
    "batches in a procedure": lambda: World(
        each(5, ("query", lambda _: {"sql": "CALL archive_orders(1000)"}), ("query", lambda _: {"sql": "SELECT 1"})),
        [a_tool("query", "OK")],
        {"retrieval_thrash": "medium"},
    ),
    "posts to an address": lambda: World(
        each(5, ("fetch", lambda _: {"url": "https://x.example/labels", "method": "POST"})),
        [a_tool("fetch", json.dumps({"status": "printed", "message": "one label was printed by the printer"}))],
        {"tool_loop": "medium"},
    ),
    "a person who says yes": lambda: World(
        each(5, ("human_assistance", lambda _: {"query": "May I go on?"})), [a_tool("human_assistance", "Yes, go on.")]
    ),
    "buckets without a policy": lambda: World(
        each(12, ("bash", lambda n: {"command": f"aws s3api get-bucket-policy --bucket b{n}"})),
        [
            a_tool(
                "bash",
                "\nAn error occurred (NoSuchBucketPolicy) when calling the GetBucketPolicy operation: none exists",
            )
        ],
    ),
    "a queue in which nothing is": lambda: World(
        each(8, ("receive_message", lambda _: {"queue": "jobs", "WaitTimeSeconds": 20})),
        [a_tool("receive_message", json.dumps({"Messages": []}))],
        seconds=20,
    ),
    "a workflow with much to say": lambda: World(
        each(6, ("get_workflow_run", lambda _: {"run_id": 7})),
        [
            a_tool(
                "get_workflow_run",
                json.dumps({"id": 7, "name": "Build", "urls": ["x" * 60] * 12, "status": "in_progress"}),
            )
        ],
    ),
    "a stack that is made": lambda: World(
        each(6, ("describe_stack", lambda _: {"name": "a"})),
        [a_tool("describe_stack", '{"StackName": "a", "StackStatus": "CREATE_IN_PROGRESS"}')],
    ),
    "a monitor that goes to sleep between its looks": lambda: World(
        each(8, ("get_page", lambda _: {"url": "https://x.example"}), ("schedule_wakeup", lambda _: {"minutes": 10})),
        [a_tool("get_page", "sold out"), a_tool("schedule_wakeup", "ok")],
        seconds=120,
    ),
    "a robot with much room before it": lambda: World(
        each(5, ("move_forward", lambda _: {"cm": 10}), ("get_distance", lambda _: {})),
        [a_tool("move_forward", "ok"), a_tool("get_distance", ">200 cm")],
        {"tool_loop": "medium", "ping_pong": "medium"},
    ),
    "a turtle that draws circles": lambda: World(
        each(9, ("forward", lambda _: {"steps": 10}), ("left", lambda _: {"degrees": 10})),
        [a_tool("forward", "ok"), a_tool("left", "ok")],
        {"tool_loop": "medium", "ping_pong": "medium"},
    ),
    "a debugger that stops at a breakpoint in a loop": lambda: World(
        each(6, ("debugger_continue", lambda _: {})),
        [a_tool("debugger_continue", "Breakpoint 1, sum_up () at main.c:5")],
        {"tool_loop": "medium"},
    ),
    "a tool of which nobody knows what it does": lambda: World(
        each(5, ("brew_coffee", lambda _: {"cups": 1})),
        [a_tool("brew_coffee", "Your coffee is ready. Please take the cup.")],
        {"tool_loop": "medium"},
    ),
    "a payment that is waited for": lambda: World(
        each(8, ("await_payment", lambda _: {"order": 7})), [a_tool("await_payment", "timeout, no event")], seconds=20
    ),
    "a folder that is watched": lambda: World(
        each(8, ("watch_for_changes", lambda _: {"path": "in"})),
        [a_tool("watch_for_changes", "no changes in the last minute")],
        seconds=30,
    ),
    "a page that is loaded anew until there are tickets": lambda: World(
        each(5, ("refresh_page", lambda _: {}), ("get_page_text", lambda _: {})),
        [a_tool("refresh_page", "ok"), a_tool("get_page_text", f"Sold out. {NOTHING}")],
        {"tool_loop": "medium", "ping_pong": "medium"},
    ),
    "buttons that have not been translated yet": lambda: World(  # the first word is the likes of another, as bits
        each(
            8,
            (
                "find_translation",
                lambda n: {"text": f"Click the {(*BUTTONS, 'stop')[n]} button to continue", "to": "de"},
            ),
        ),
        [a_tool("find_translation", NOTHING)],
        {"tool_loop": "medium"},
    ),
    "files in which a German tool finds no errors": lambda: World(
        each(8, ("pruefe_datei", lambda n: {"pfad": f"{n}.py"})),
        [a_tool("pruefe_datei", "Fehler: keine, Warnungen: 2")],
    ),
    "a gateway to other tools, through which a form is filled in": lambda: World(
        each(
            6,
            ("call_tool", lambda n: {"name": "browser_click", "arguments": {"ref": f"e{n}"}}),
            ("call_tool", lambda _: {"name": "browser_snapshot", "arguments": {}}),
        ),
        [a_tool("call_tool", lambda name, **_: "clicked" if name == "browser_click" else f"A form. {NOTHING}")],
    ),
    "the commit that broke it, by halves": lambda: World(
        each(7, ("bash", lambda _: {"command": "make test"}), ("bash", lambda _: {"command": "git bisect bad"})),
        [
            a_tool(
                "bash",
                counting(
                    *(said for n in range(7) for said in ("FAILED test_x", f"Bisecting: {64 >> n} revisions left"))
                ),
            )
        ],
    ),
    "a queue of e-mails": lambda: World(
        each(
            9,
            ("read_email", lambda n: {"id": n}),
            ("label_email", lambda n: {"id": n, "label": "news"}),
            ("archive_email", lambda n: {"id": n}),
        ),
        [
            a_tool("read_email", lambda id: f"mail {id} of {SERVICES[id % 6]}"),  # noqa: A006
            a_tool("label_email", "ok"),
            a_tool("archive_email", "ok"),
        ],
    ),
    "a merge that waits for checks": lambda: World(
        each(5, ("merge_pull_request", lambda _: {"number": 7}), ("get_checks", lambda _: {"number": 7})),
        [
            a_tool("merge_pull_request", lambda **_: ToolException("405: required checks have not passed")),
            a_tool("get_checks", counting(*(f"{n} of 9 passed" for n in range(9)))),
        ],
        {"error_loop": "medium", "tool_loop": "medium"},
    ),
}


@pytest.mark.parametrize("name", WORLDS)
def test_the_agent_gets_to_its_end(name: str) -> None:
    world = WORLDS[name]()
    handler = TokenSentinelHandler(mode="block", clock=ticking(world.seconds))
    app = create_agent(ScriptedChatModel(script=[*world.script, DONE]), world.tools)
    config: Any = {"callbacks": [handler], "recursion_limit": 999}
    assert app.invoke({"messages": [HumanMessage("go")]}, config)["messages"][-1].content == DONE.content
    told = {i.rule: i.severity for i in handler.sentinel.incidents() if i.severity != "low"}
    assert told == world.told
    assert handler.sentinel.health().ok


@pytest.mark.parametrize("failures", [3, 5])
def test_a_tool_call_that_middleware_tries_again_is_one_try(failures: int) -> None:
    answers = iter([*[ConnectionError("reset by peer")] * failures, "the page"])
    again = ToolRetryMiddleware(max_retries=9, initial_delay=0.0, backoff_factor=0.0, jitter=False)
    handler = TokenSentinelHandler(mode="block", clock=ticking(0.5))
    fetch = a_tool("fetch_page", lambda **_: next(answers))
    app = create_agent(
        ScriptedChatModel(script=[call_tool("fetch_page", url="https://x.example"), DONE]), [fetch], middleware=[again]
    )
    out = app.invoke({"messages": [HumanMessage("go")]}, {"callbacks": [handler]})
    assert [m.content for m in out["messages"]][-2:] == ["the page", DONE.content]
    assert "error_loop" not in {i.rule for i in handler.sentinel.incidents()}


@pytest.mark.parametrize("varied", [True, False])
def test_rows_that_are_labelled_in_tool_calls(varied: bool) -> None:
    """As `with_structured_output` does with most providers, for a quarter of an hour."""
    labels = itertools.cycle(["spam", "ham", "news"] if varied else ["ham"])
    model = ScriptedChatModel(script=[lambda _: call_tool("Label", label=next(labels))])
    handler = TokenSentinelHandler(mode="block", clock=ticking(1.5))
    rows = RunnableLambda(lambda given: [model.invoke(f"Label this review: number {n}").tool_calls for n in given])
    assert len(rows.invoke(list(range(200)), {"callbacks": [handler]})) == 200
    assert "zombie" not in {i.rule for i in handler.sentinel.incidents()}


def test_one_row_that_is_labelled_for_ever_is_no_work() -> None:
    model = ScriptedChatModel(script=[call_tool("Label", label="ham")], temperature=0.7)
    handler = TokenSentinelHandler(clock=ticking(1.5))
    rows = RunnableLambda(lambda given: [model.invoke("Label this review").tool_calls for _ in given])
    rows.invoke(list(range(200)), {"callbacks": [handler]})
    assert "zombie" in {i.rule for i in handler.sentinel.incidents() if i.severity == "high"}


def handing_over(worker: Callable[[int], Any], handoffs: int = 7, name: str = "indexer") -> TokenSentinelHandler:
    """A supervisor that hands its task to a worker, again and again."""

    @tool(f"transfer_to_{name}")
    def transfer(
        state: Annotated[dict[str, Any], InjectedState], tool_call_id: Annotated[str, InjectedToolCallId]
    ) -> Command[Any]:
        """Hands over."""
        told = ToolMessage(f"Successfully transferred to {name}", tool_call_id=tool_call_id)
        return Command(goto=name, graph=Command.PARENT, update={"messages": [*state["messages"], told]})

    numbers = itertools.count()
    boss = ScriptedChatModel(script=[*[call_tool(f"transfer_to_{name}")] * handoffs, DONE])
    builder = StateGraph(MessagesState)
    builder.add_node("boss", create_agent(boss, [transfer]), destinations=(name,))
    builder.add_node(name, lambda state: {"messages": [worker(next(numbers))(state["messages"])]})
    builder.add_edge(START, "boss")
    builder.add_edge(name, "boss")
    handler = TokenSentinelHandler(clock=ticking(0.5))
    builder.compile().invoke({"messages": [HumanMessage("go")]}, {"callbacks": [handler], "recursion_limit": 99})
    return handler


def test_a_worker_that_is_code_works() -> None:
    handler = handing_over(lambda n: lambda _: AIMessage(f"Indexed batch {n}: {n * 120} rows", name="indexer"))
    assert handler.sentinel.incidents() == []


@pytest.mark.parametrize("kind", [AIMessage, HumanMessage])
def test_a_worker_that_is_a_model_is_judged_by_what_it_says(kind: type[AIMessage | HumanMessage]) -> None:
    """In other words each time, and handed on as whoever's message."""
    no = "I cannot do that, since the invoice system is not available to me at the moment, please ask somebody else"
    model = ScriptedChatModel(script=[f"{no} {word}" for word in ("now", "today", "then", "soon", "again", "or", "so")])
    handler = handing_over(lambda _: lambda messages: kind(model.invoke(messages).content, name="indexer"))
    assert [(i.rule, i.severity) for i in handler.sentinel.incidents()] == [("handoff_loop", "high")]


def test_an_agent_for_research_is_no_search() -> None:
    model = ScriptedChatModel(script=[f"Finding {n}: {SERVICES[n % 6]} {n * 17}" for n in range(9)])
    handler = handing_over(lambda _: lambda messages: model.invoke(messages), name="research_agent")
    assert handler.sentinel.incidents() == []


def test_the_same_greeting_each_day() -> None:
    now = [START_TIME]
    handler = TokenSentinelHandler(mode="block", clock=lambda: now[0])
    model = ScriptedChatModel(script=["Hello! How can I help you with your account today?"])
    app = create_agent(model, [], checkpointer=InMemorySaver())
    for _ in range(4):
        now[0] += 86_400
        app.invoke({"messages": [HumanMessage("hi")]}, {"callbacks": [handler], "configurable": {"thread_id": "t"}})
    assert handler.sentinel.incidents() == []
