"""Budgets hold: alone, between threads, between processes, and when Redis goes away."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import pytest
from agents import ASK, DONE, LOOP, agent, fetch_page
from langchain.agents import create_agent
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph, add_messages
from langgraph.prebuilt import ToolNode
from pydantic import PrivateAttr
from servers.redis import RedisServer, needs_redis

from ts_langchain import (
    CallRefused,
    Policy,
    Sentinel,
    TokenSentinelHandler,
    TokenSentinelMiddleware,
    guard,
    guard_model,
)
from ts_langchain.budget import RESERVATION_SECONDS, Budgets, Check, MemoryStore, Refusal, Request, Reservation
from ts_langchain.budget_redis import RedisStore
from ts_langchain.call import Call, Usage
from ts_langchain.capture.in_flight import Called, InFlight
from ts_langchain.capture.memory import Memory
from ts_langchain.governor import Governor
from ts_langchain.health import Faults
from ts_langchain.intervene.actions import MARK
from ts_langchain.intervene.core import ALL_MODEL_ACTIONS, Here, Interventions, Turn
from ts_langchain.intervene.graph import GuardedNode
from ts_langchain.pricing import Prices
from ts_langchain.testing import ScriptedChatModel, call_tool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator
    from pathlib import Path

    from ts_langchain.policy import Budget

pytestmark = pytest.mark.usefixtures("calm_collector")

AT = 1_790_000_000.0


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


def ask(session: str = "s", at: float = AT, sent: int = 100, most: int | None = 100, **more: Any) -> Request:
    return Request(session, "r", at, "gpt-4o", "openai", sent, most, **more)


def made(tokens: int, at: float = AT) -> Call:
    usage = Usage(tokens)
    return Call("m", "model", "s", "r", "gpt-4o", at, at + 1, model="gpt-4o", provider="openai", usage=usage)


def budgets(*given: dict[str, Any], store: Any = None, **policy: Any) -> Budgets:
    return Budgets(Policy.from_dict({"budgets": given, **policy}), Prices(), Faults(), store)


def stores() -> list[Any]:
    return ["memory", pytest.param("redis", marks=needs_redis)]


@pytest.fixture(params=stores())
def store(request: pytest.FixtureRequest) -> Any:
    if request.param == "memory":
        return MemoryStore()
    server = request.getfixturevalue("redis")
    made = RedisStore(server.url)
    made._client.flushall()
    return made


def test_reserve_settle_refuse(store: Any) -> None:
    book = budgets({"tokens": 1000}, store=store)
    first = book.reserve(ask())
    second = book.reserve(ask(sent=700))
    assert isinstance(first, Reservation)
    assert isinstance(second, Reservation)
    refused = book.reserve(ask(sent=1, most=1))
    assert isinstance(refused, Refusal)
    assert "1,000 tokens per session" in refused.summary
    book.settle(second, made(50))  # it used less than it had reserved
    book.settle(second, made(900))  # twice: counts once
    third = book.reserve(ask(sent=600, most=150))
    assert isinstance(third, Reservation)
    book.settle(first, None)  # never made
    assert isinstance(book.reserve(ask(sent=150, most=50)), Reservation)
    assert isinstance(book.reserve(ask(sent=1, most=1)), Refusal)
    assert isinstance(book.reserve(ask(session="other")), Reservation)


def test_dollars_calls_and_several_budgets_at_once(store: Any) -> None:
    book = budgets({"usd": 0.01}, {"calls": 3, "per": "run"}, store=store)
    for _ in range(3):
        answer = book.reserve(ask(sent=10, most=10))
        assert isinstance(answer, Reservation)
        book.settle(answer, made(10), Prices().cost(made(10)))
    refused = book.reserve(ask(sent=10, most=10))
    assert isinstance(refused, Refusal)
    assert refused.budget is not None
    assert refused.budget.metric == "calls"
    dear = book.reserve(Request("s", "r2", AT, "gpt-4o", "openai", 10_000, 10))
    assert isinstance(dear, Refusal)
    assert dear.budget is not None
    assert dear.budget.metric == "usd"
    # what was refused for dollars has not been counted as a call
    assert isinstance(book.reserve(Request("s", "r2", AT, "gpt-4o", "openai", 10, 10)), Reservation)


def test_tokens_per_minute_slide(store: Any) -> None:
    book = budgets({"tokens_per_minute": 1000, "per": "project"}, store=store)
    start = AT - AT % 60
    first = book.reserve(ask(at=start + 30, sent=800, most=100))
    assert isinstance(first, Reservation)
    book.settle(first, made(900, start + 31))
    assert isinstance(book.reserve(ask(at=start + 40, sent=200, most=0)), Refusal)
    assert isinstance(book.reserve(ask(at=start + 65, sent=200, most=0)), Refusal)  # 11/12 of the minute before count
    assert isinstance(book.reserve(ask(at=start + 100, sent=600, most=0)), Reservation)
    assert isinstance(book.reserve(ask(at=start + 200, sent=1000, most=0)), Reservation)


@pytest.mark.parametrize("per", ["session", "run", "user", "tag", "project", "day"])
def test_scopes(store: Any, per: str) -> None:
    book = budgets({"calls": 1, "per": per}, store=store)
    base = {"user_id": "ada", "tags": ("a",)}
    first = book.reserve(ask(**base))
    assert isinstance(first, Reservation)
    book.settle(first, made(10))
    assert isinstance(book.reserve(ask(**base)), Refusal)
    others = {
        "session": ask(session="s2", **base),
        "run": ask(**base)._replace(root_id="r2"),
        "user": ask(user_id="bob", tags=("a",)),
        "tag": ask(user_id="ada", tags=("b",)),
        "day": ask(at=AT + 86_400, **base),
    }
    for scope, request in others.items():
        assert isinstance(book.reserve(request, force=False), Reservation if scope == per else Refusal), scope


def test_a_reservation_nobody_settles_is_given_back(store: Any) -> None:
    book = budgets({"calls": 1}, store=store)
    assert isinstance(book.reserve(ask()), Reservation)
    assert isinstance(book.reserve(ask(at=AT + RESERVATION_SECONDS - 1)), Refusal)
    assert isinstance(book.reserve(ask(at=AT + RESERVATION_SECONDS + 1)), Reservation)


def test_a_warning_once_at_80_percent() -> None:
    warned = []

    def told(budget: Budget, request: Request, *, exhausted: bool) -> None:
        warned.append((budget.per, request.session_id, request.at, exhausted))

    given = [{"calls": 5}, {"calls": 5, "per": "run", "do": "warn"}, {"tokens_per_minute": 200, "do": "downgrade"}]
    book = Budgets(Policy.from_dict({"budgets": given}), Prices(), Faults(), None, told)
    for number in range(5):
        book.reserve(ask(sent=1, most=0, at=AT + number))
    assert warned == [("session", "s", AT + 3, False), ("run", "s", AT + 3, False)]
    forced = book.reserve(ask(sent=1, most=0, at=AT + 5), force=True)
    assert isinstance(forced, Reservation)
    assert warned[2:] == [("run", "s", AT + 5, True)]
    for second in (100, 101, 170):  # rates: again in another minute
        book.reserve(ask(session="t", sent=190, most=0, at=AT - AT % 60 + second)._replace(root_id=str(second)))
    assert [w[2] - (AT - AT % 60) for w in warned[3:]] == [100, 170]


def test_a_soft_budget_leaves_the_hard_ones_in_force(store: Any) -> None:
    given = [{"calls": 2, "do": "warn"}, {"calls": 3, "do": "downgrade"}, {"calls": 4}, {"calls": 6, "do": "block"}]
    for order in (given, given[::-1]):
        book = budgets(*order, store=store)
        session = f"{order[0]['calls']}"
        exhausted = []
        for _ in range(4):
            answer = book.reserve(ask(session=session))
            assert isinstance(answer, Reservation)
            exhausted.append({b.do for b in answer.exhausted})
            book.settle(answer, made(10))
        assert exhausted == [set(), set(), {"warn"}, {"warn", "downgrade"}]
        refused = book.reserve(ask(session=session))
        assert isinstance(refused, Refusal)
        assert refused.budget is not None
        assert (refused.budget.limit, refused.budget.do) == (4, "stop")
        assert refused.cheaper is not None
        assert refused.cheaper.do == "downgrade"
        forced = book.reserve(ask(session=session), force=True)
        assert isinstance(forced, Reservation)


def test_budgets_of_one_account_count_a_call_once(store: Any) -> None:
    book = budgets({"calls": 4, "do": "warn"}, {"calls": 4}, {"per": "tag", "calls": 3}, store=store)
    for _ in range(3):
        answer = book.reserve(ask(tags=("a", "a")))
        assert isinstance(answer, Reservation)
        book.settle(answer, made(10))
    assert isinstance(book.reserve(ask(tags=("b",))), Reservation)
    refused = book.reserve(ask(tags=("b",)))
    assert isinstance(refused, Refusal)
    assert "4 calls per session" in refused.summary


def test_a_raised_limit_goes_on_with_what_was_spent(store: Any) -> None:
    for limit in (1, 3):
        book = budgets({"per": "user", "calls": limit}, store=store)
        while isinstance(answer := book.reserve(ask(user_id="ada")), Reservation):
            book.settle(answer, made(10))
        if store.__class__ is MemoryStore:
            assert store._accounts["calls:user:calls:ada"].used == limit
        else:
            assert int(store._client.hget("ts-langchain:budget:calls:user:calls:ada", "used")) == limit


def test_threads_cannot_overspend_together(store: Any) -> None:
    book = budgets({"tokens": 10_000}, store=store)

    def one(_: int) -> int:
        answer = book.reserve(ask(sent=50, most=50))
        if isinstance(answer, Refusal):
            return 0
        book.settle(answer, made(100))
        return 100

    with ThreadPoolExecutor(32) as pool:
        spent = sum(pool.map(one, range(400)))
    assert 9_900 <= spent <= 10_000


def _worker(url: str, tries: int, results: Any) -> None:
    book = budgets({"tokens": 20_000, "per": "project"}, store=RedisStore(url))
    spent = 0
    for _ in range(tries):
        answer = book.reserve(ask(sent=30, most=70, at=time.time()))
        if isinstance(answer, Reservation):
            book.settle(answer, made(100, time.time()))
            spent += 100
    results.put((spent, dict(book.faults.counts())))


@needs_redis
def test_four_processes_on_one_redis(redis: RedisServer) -> None:
    RedisStore(redis.url)._client.flushall()
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=_worker, args=(redis.url, 100, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert all(faults == {} for _, faults in found)
    assert sum(spent for spent, _ in found) == 20_000


def _dies(url: str) -> None:
    import os

    budgets({"calls": 1, "per": "project"}, store=RedisStore(url)).reserve(ask(at=time.time()))
    os._exit(1)


@needs_redis
def test_a_killed_worker_does_not_keep_its_reservation_for_good(redis: RedisServer) -> None:
    RedisStore(redis.url)._client.flushall()
    worker = multiprocessing.get_context("spawn").Process(target=_dies, args=(redis.url,))
    worker.start()
    worker.join()
    book = budgets({"calls": 1, "per": "project"}, store=RedisStore(redis.url))
    assert isinstance(book.reserve(ask(at=time.time())), Refusal)
    assert isinstance(book.reserve(ask(at=time.time() + RESERVATION_SECONDS + 5)), Reservation)


@needs_redis
@pytest.mark.parametrize("down", ["open", "closed"])
def test_redis_dies_and_comes_back(tmp_path: Path, down: str) -> None:
    server = RedisServer(tmp_path)
    now = [0.0]
    policy = Policy.from_dict({"budgets": [{"calls": 3, "per": "project"}], "redis_down": down})
    book = Budgets(policy, Prices(), Faults(), RedisStore(server.url), clock=lambda: now[0])
    first = book.reserve(ask())
    assert isinstance(first, Reservation)
    server.kill()
    book.settle(first, made(10))  # waits until Redis is back
    second = book.reserve(ask())
    assert isinstance(second, Reservation if down == "open" else Refusal)
    assert any("budget store" in place for place in book.faults.counts())
    server.start()
    now[0] = 10.0
    assert isinstance(book.reserve(ask()), Reservation)
    book.settle(Reservation([Check("calls:x", None, 1, False, 0.0)]), None)  # any settling sends what has waited
    account = RedisStore(server.url)._client.hgetall("ts-langchain:budget:calls:project:calls:-")
    assert int(account[b"used"]) == 2  # the settled one, and the one reserved now
    assert sum(name.startswith(b"r:") for name in account) == 1
    server.kill()


class LosesAnswers(RedisStore):
    """A Redis that does what it is told, and whose answer is lost on its way."""

    lost = True

    def reserve(self, *asked: Any) -> Any:
        answer = super().reserve(*asked)
        if self.lost:
            raise TimeoutError
        return answer

    def settle(self, *asked: Any) -> None:
        super().settle(*asked)
        if self.lost:
            raise TimeoutError


def lossy(redis: RedisServer, down: str) -> tuple[Budgets, LosesAnswers, list[float]]:
    """Budgets in such a Redis, the store, and what moves their clock."""
    store, now = LosesAnswers(redis.url), [0.0]
    store._client.flushall()
    policy = Policy.from_dict({"budgets": [{"tokens": 1000}], "redis_down": down})
    return Budgets(policy, Prices(), Faults(), store, clock=lambda: now[0]), store, now


def held(store: RedisStore) -> tuple[int, int]:
    """Tokens that the session's account holds, and its reservations."""
    account = store._client.hgetall("ts-langchain:budget:tokens:session:tokens:s")
    return int(account[b"used"]), sum(name.startswith(b"r:") for name in account)


@needs_redis
def test_what_is_settled_again_since_the_answer_was_lost_counts_once(redis: RedisServer) -> None:
    book, store, now = lossy(redis, "open")
    store.lost = False
    first, second = book.reserve(ask()), book.reserve(ask())
    assert isinstance(first, Reservation)
    assert isinstance(second, Reservation)
    store.lost = True
    book.settle(first, made(70))
    now[0], store.lost = 3.0, False
    book.settle(second, made(30))
    assert held(store) == (100, 0)
    assert not book._unsettled


@needs_redis
@pytest.mark.parametrize(("down", "used"), [("open", 70), ("closed", 0)])
def test_a_reservation_whose_answer_was_lost_is_settled(redis: RedisServer, down: str, used: int) -> None:
    book, store, now = lossy(redis, down)
    answer = book.reserve(ask())
    assert held(store) == (200, 1)
    now[0], store.lost = 3.0, False
    if isinstance(answer, Reservation):  # counted in memory, and where all others look, too
        book.settle(answer, made(70))
    else:
        last = book.reserve(ask())
        assert isinstance(last, Reservation)
        book.settle(last, None)
    assert held(store) == (used, 0)


@needs_redis
def test_an_account_that_is_lost_meanwhile_is_not_kept_for_ever(redis: RedisServer) -> None:
    book, store, _ = lossy(redis, "open")
    store.lost = False
    answer = book.reserve(ask())
    assert isinstance(answer, Reservation)
    store._client.flushall()
    book.settle(answer, made(70))
    assert held(store) == (70, 0)
    assert store._client.ttl("ts-langchain:budget:tokens:session:tokens:s") > 0


@needs_redis
def test_as_many_connections_as_threads(redis: RedisServer) -> None:
    pool = RedisStore(redis.url)._client.connection_pool
    taken = [pool.get_connection() for _ in range(300)]
    for connection in taken:
        pool.release(connection)
    pool.disconnect()


class Elsewhere(MemoryStore):
    """A store that takes its time to settle, and is interrupted if asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.interrupts: BaseException | None = None

    def settle(self, *asked: Any) -> None:
        self.now += 0.2
        if self.interrupts is not None:
            raise self.interrupts
        super().settle(*asked)


def test_no_call_settles_all_that_has_waited() -> None:
    """Where thousands wait for a Redis that is back and far away."""
    store = Elsewhere()
    book = Budgets(
        Policy.from_dict({"budgets": [{"tokens": 10_000}]}), Prices(), Faults(), store, clock=lambda: store.now
    )
    taken = [book.reserve(ask()) for _ in range(10)]
    store.interrupts = ConnectionError()
    for answer in taken[:9]:
        assert isinstance(answer, Reservation)
        book.settle(answer, made(10))
    assert len(book._unsettled) == 9
    store.interrupts, store.now = None, store.now + 10
    assert isinstance(taken[9], Reservation)
    book.settle(taken[9], made(10))
    assert len(book._unsettled) == 7
    while book._unsettled:
        book._settle_all()
    assert store._accounts["tokens:session:tokens:s"].used == 100


def test_what_is_being_settled_survives_an_interrupt() -> None:
    store = Elsewhere()
    book = budgets({"tokens": 1000}, store=store)
    answer = book.reserve(ask())
    assert isinstance(answer, Reservation)
    store.interrupts = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        book.settle(answer, made(70))
    store.interrupts = None
    book._settle_all()
    assert store._accounts["tokens:session:tokens:s"].used == 70


# --- in an app -----------------------------------------------------------------------------------


@tool
def step(n: int) -> str:
    """Makes a step."""
    return f"step {n} made"


def walker() -> list[Any]:
    return [*(call_tool("step", n=i) for i in range(20)), DONE]


@pytest.mark.parametrize("action", ["stop", "block", "pause"])
def test_an_agent_stays_within_its_budget(action: str) -> None:
    model = ScriptedChatModel(script=walker())
    middleware = TokenSentinelMiddleware(policy={"budgets": [{"calls": 4, "do": action}]})
    app = create_agent(model, [step], middleware=[middleware])
    if action == "block":
        with pytest.raises(CallRefused, match="4 calls per session"):
            app.invoke(ASK)
    else:
        assert "I stopped here" in app.invoke(ASK)["messages"][-1].content
    assert model.calls == 4
    assert middleware.sentinel.health().faults == {}


@pytest.mark.parametrize("soft", ["warn", "downgrade"])
@pytest.mark.parametrize("hard", ["stop", "block"])
@pytest.mark.parametrize("door", ["handler", "middleware"])
def test_behind_a_soft_budget_an_agent_stays_within_the_hard_one(door: str, hard: str, soft: str) -> None:
    cheap = ScriptedChatModel(model_name="cheap", script=walker())
    policy = {
        "budgets": [{"calls": 2, "do": soft}, {"calls": 4, "do": hard}],
        "downgrade": {"gpt-4o-20*": "cheap"},
    }
    model = ScriptedChatModel(model_name="gpt-4o-2024-08-06", script=walker())
    sentinel = Sentinel(policy=policy)
    if door == "handler":
        app = create_agent(model, [step])
        config: Any = {"callbacks": [TokenSentinelHandler(sentinel, mode="block")]}
    else:
        app = create_agent(model, [step], middleware=[TokenSentinelMiddleware(sentinel, models={"cheap": cheap})])
        config = {}
    if hard == "block" or door == "handler":
        with pytest.raises(CallRefused, match="4 calls per session"):
            app.invoke(ASK, config)
    else:
        assert "I stopped here" in app.invoke(ASK, config)["messages"][-1].content
    downgraded = door == "middleware" and soft == "downgrade"
    assert (model.calls, cheap.calls) == ((2, 2) if downgraded else (4, 0))
    assert sentinel.health().faults == {}


CHEAP, DEAR = "gpt-4o-mini", "gpt-4o-2024-08-06"


def test_what_only_a_cheaper_model_can_afford_goes_to_it() -> None:
    cheap, dear = (ScriptedChatModel(model_name=name, script=[DONE] * 9) for name in (CHEAP, DEAR))
    # a call of 1000 tokens of output: one cent on the dear model, 0.06 cents on the cheap one
    policy = {
        "budgets": [{"usd": 0.011, "do": "downgrade"}, {"usd": 0.0125}],
        "downgrade": {"gpt-4o-20*": CHEAP},
        "assumed_output_tokens": 1000,
    }
    sentinel = Sentinel(policy=policy)
    middleware = TokenSentinelMiddleware(sentinel, models={CHEAP: cheap})
    held: list[Any] = []
    while len(held) < 3:  # calls under way: nothing is settled
        admission = middleware.interventions.prepare(
            Here("s", "r", None, (), None, resumable=False, resuming=False),
            turn := Turn([HumanMessage("hi")], model=dear, model_name=DEAR, provider="openai"),
            ALL_MODEL_ACTIONS,
        )
        assert admission is not None
        held.append((turn.model_name, admission.refused))
    assert [name for name, _ in held] == [DEAR, CHEAP, CHEAP]
    assert [(d.action, d.outcome) for d in sentinel.decisions() if d.action != "warn"] == [("downgrade", "done")] * 2
    assert [refused for _, refused in held] == [None] * 3


def test_a_dry_run_asks_the_kill_switch_once_though_it_tries_a_cheaper_model(tmp_path: Path) -> None:
    switch = tmp_path / "stop"
    switch.touch()
    sentinel = Sentinel(
        policy={
            "mode": "observe",
            "budgets": [{"usd": 0.011, "do": "downgrade"}, {"usd": 0.0125}],
            "downgrade": {"gpt-4o-20*": CHEAP},
            "assumed_output_tokens": 1000,
            "kill_switch": {"file": str(switch)},
        }
    )
    asked = Request("s", "r", AT, DEAR, "openai", 10)
    first, second = sentinel.governor.admit(asked), sentinel.governor.admit(asked)
    assert first.refused is second.refused is None
    assert [(d.rule, d.action, d.outcome) for d in sentinel.decisions() if d.action != "warn"] == [
        ("kill_switch", "block", "dry run"),
        ("kill_switch", "block", "dry run"),
        ("budget", "downgrade", "dry run"),
    ]


def test_a_budget_can_downgrade_instead() -> None:
    model = ScriptedChatModel(script=walker())
    cheap = ScriptedChatModel(script=[DONE], model_name="gpt-4o-mini")
    policy = {"budgets": [{"calls": 2, "do": "downgrade"}], "downgrade": {"gpt-4o-20*": "cheap"}}
    middleware = TokenSentinelMiddleware(policy=policy, models={"cheap": cheap})
    out = create_agent(model, [step], middleware=[middleware]).invoke(ASK)
    assert (model.calls, cheap.calls) == (2, 1)
    assert out["messages"][-1].content == "done"


class Bounded(ScriptedChatModel):
    """Bounds its output as langchain-google-genai does."""

    max_output_tokens: int | None = None


@pytest.mark.parametrize("door", ["agent", "model"])
@pytest.mark.parametrize(("bound", "calls"), [(50, 1), (5000, 0), (None, 0)])
def test_what_is_reserved_is_the_bound_by_whatever_name(door: str, bound: int | None, calls: int) -> None:
    policy = {"budgets": [{"per": "session", "tokens": 1000, "do": "block"}], "assumed_output_tokens": 2000}
    model = Bounded(script=[DONE], max_output_tokens=bound)
    middleware = TokenSentinelMiddleware(policy=policy)
    app: Any = (
        create_agent(model, [], middleware=[middleware]) if door == "agent" else guard_model(model, policy=policy)
    )
    refused = False
    try:
        app.invoke(ASK if door == "agent" else "go")
    except CallRefused:
        refused = True
    assert (model.calls, refused) == (calls, not calls)


def test_a_handler_alone_holds_budgets_in_mode_block() -> None:
    sentinel = Sentinel(policy={"budgets": [{"calls": 3}]})
    app, model = agent(walker())
    with pytest.raises(CallRefused):
        app.invoke(ASK, {"callbacks": [TokenSentinelHandler(sentinel, mode="block")]})
    assert model.calls == 3
    watched = Sentinel(policy={"budgets": [{"calls": 3}]})
    app, model = agent(walker())
    app.invoke(ASK, {"callbacks": [TokenSentinelHandler(watched)], "recursion_limit": 100})
    assert model.calls == 21


class Gated(ScriptedChatModel):
    """Answers nobody until all have asked. 1 dollar a token: input is estimated as 2, output bounded by 8."""

    PRICES: ClassVar[Any] = {"gated": {"input": 1e6, "output": 1e6}}

    _open: asyncio.Event = PrivateAttr(default_factory=asyncio.Event)
    _waiting: int = PrivateAttr(default=0)

    async def _agenerate(self, *args: Any, **kwargs: Any) -> Any:
        self._waiting += 1
        await self._open.wait()
        return self._generate(*args)

    async def answer_all(self, asking: list[Awaitable[Any]]) -> list[Any]:
        """What becomes of them all: each has been refused or waits here before the first is answered."""
        self._open.clear()
        self._waiting = 0
        tasks = [asyncio.ensure_future(a) for a in asking]
        while self._waiting + sum(t.done() for t in tasks) < len(tasks):
            await asyncio.sleep(0)
        self._open.set()
        return await asyncio.gather(*tasks, return_exceptions=True)


def gated(policy: Any) -> tuple[Gated, Sentinel]:
    return Gated(script=[AIMessage("eight!!!")], model_name="gated"), Sentinel(policy=policy, prices=Gated.PRICES)


def test_200_branches_cannot_overspend_together() -> None:
    """Each branch's model call waits for all others to have asked."""
    model, sentinel = gated({"budgets": [{"usd": 100, "per": "project", "do": "block"}]})
    guarded = guard_model(model, sentinel).bind(max_tokens=8)
    branches = [guarded.ainvoke("hello", {"metadata": {"session_id": f"s{n}"}}) for n in range(200)]
    ends = asyncio.run(model.answer_all(branches))
    spent = sum(t.nano for n in range(200) if (t := sentinel.totals(f"s{n}"))) / 1e9
    assert sum(not isinstance(end, CallRefused) for end in ends) == model.calls == 10
    assert spent <= 100
    assert sentinel.health().faults == {}


def test_tags_that_langchain_gives_have_no_budgets() -> None:
    """`seq:step:1` and the like say which part of a chain or graph it is: all apps have them."""
    sentinel = Sentinel(policy={"budgets": [{"per": "tag", "calls": 1, "do": "block"}]})
    handler = TokenSentinelHandler(sentinel, mode="block")
    model = ScriptedChatModel(script=["yes"])
    chain = RunnableLambda(lambda text: text) | model.with_retry(stop_after_attempt=2)
    for tag in ("a", "b"):
        app, _ = agent([DONE])
        app.invoke(ASK, {"callbacks": [handler], "tags": [f"agent {tag}"]})
        chain.invoke("well?", {"callbacks": [handler], "tags": [tag]})
    with pytest.raises(CallRefused):
        chain.invoke("well?", {"callbacks": [handler], "tags": ["a"]})
    assert model.calls == 2


@pytest.mark.parametrize("door", ["handler", "middleware", "model"])
def test_the_tags_of_a_model_count(door: str) -> None:
    sentinel = Sentinel(policy={"budgets": [{"per": "tag", "tag": "dear", "calls": 1, "do": "block"}]})
    model = ScriptedChatModel(script=["yes"], tags=["dear"])
    config: Any = {"callbacks": [TokenSentinelHandler(sentinel, mode="block")]} if door == "handler" else {}
    middleware = [TokenSentinelMiddleware(sentinel)] if door == "middleware" else []
    app: Any = guard_model(model, sentinel) if door == "model" else create_agent(model, [], middleware=middleware)
    app.invoke("hi" if door == "model" else ASK, config)
    with pytest.raises(CallRefused):
        app.invoke("hi" if door == "model" else ASK, config)
    assert model.calls == 1


@pytest.mark.parametrize("known", [False, True])
def test_branches_of_a_guarded_graph_cannot_overspend_together(known: bool) -> None:
    """The guard knows no model: of a node that has called one it reserves for that one, of others the call asks."""
    model, sentinel = gated({"budgets": [{"usd": 100, "per": "project", "do": "block"}]})
    bound = model.bind(max_tokens=8)

    async def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await bound.ainvoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("think", think)
    builder.add_edge(START, "think")
    app = guard(builder, sentinel).compile()

    async def all_branches() -> list[Any]:
        if known:
            await model.answer_all([app.ainvoke({"messages": [("user", "hello")]})])
        return await model.answer_all([app.ainvoke({"messages": [("user", "hello")]}) for _ in range(50)])

    refused = [end for end in asyncio.run(all_branches()) if isinstance(end, CallRefused)]
    assert 9 <= model.calls <= 11
    assert len(refused) == 50 + known - model.calls
    assert sum(state.totals.nano for state in sentinel.states()) <= 100e9
    assert sentinel.in_flight.reservations == {}


def test_two_doors_around_one_call_reserve_for_it_once() -> None:
    sentinel = Sentinel(policy={"budgets": [{"per": "run", "calls": 3}]})
    model = ScriptedChatModel(script=walker())
    guarded = guard_model(model, sentinel).bind_tools([step])
    builder = StateGraph(MessagesState)
    builder.add_node("think", lambda state: {"messages": [guarded.invoke(state["messages"])]})
    builder.add_node("tools", ToolNode([step]))
    builder.add_edge(START, "think")
    builder.add_conditional_edges("think", lambda state: "tools" if state["messages"][-1].tool_calls else END)
    builder.add_edge("tools", "think")
    messages = guard(builder, sentinel).compile().invoke(ASK)["messages"]
    assert messages[-1].content.startswith("I stopped here")
    assert model.calls == 3


@pytest.mark.parametrize("bound", [False, True])
def test_a_guarded_model_with_fallbacks_is_of_the_run_that_its_calls_are_of(bound: bool) -> None:
    sentinel = Sentinel(policy={"budgets": [{"per": "run", "calls": 2, "do": "block"}]})
    model = ScriptedChatModel(script=walker())
    guarded: Any = guard_model(model, sentinel).bind_tools([step] if bound else [])
    chain = guarded.with_fallbacks([ScriptedChatModel(script=["?"])], exceptions_to_handle=(ConnectionError,))
    config: Any = {"callbacks": [TokenSentinelHandler(sentinel)]}
    said: list[Any] = [HumanMessage("go")]
    for _ in range(2):
        said.append(chain.invoke(said, config))
        said.append(step.invoke(said[-1].tool_calls[0]))
    with pytest.raises(CallRefused):
        chain.invoke(said, config)
    assert model.calls == 2


@pytest.mark.parametrize("allowed", [2, 4])
def test_each_sentinel_holds_its_own_budgets(allowed: int) -> None:
    inner = Sentinel(policy={"budgets": [{"per": "project", "calls": 3}]})
    outer = Sentinel(policy={"budgets": [{"per": "project", "calls": allowed, "do": "block"}]})
    app, model = agent(walker(), middleware=[TokenSentinelMiddleware(inner)])
    handler = TokenSentinelHandler(outer, mode="block")
    if allowed < 3:
        with pytest.raises(CallRefused, match="2 calls per project"):
            app.invoke(ASK, {"callbacks": [handler]})
    else:
        assert "I stopped here" in app.invoke(ASK, {"callbacks": [handler]})["messages"][-1].content
    assert model.calls == min(allowed, 3)
    assert outer.in_flight.reservations == inner.in_flight.reservations == {}


def test_what_was_given_back_lets_nothing_through() -> None:
    """A task that a node leaves behind asks for itself, though its context is the node's."""
    sentinel = Sentinel(policy={"budgets": [{"per": "project", "calls": 2}]})
    model = ScriptedChatModel(script=["one"])
    left: list[Context] = []

    def think(state: MessagesState) -> dict[str, Any]:
        if model.calls:
            left.append(copy_context())
            return {"messages": []}
        return {"messages": [model.invoke("hi")]}

    builder = StateGraph(MessagesState)
    builder.add_node("think", think)
    builder.add_edge(START, "think")
    app = guard(builder, sentinel).compile()
    app.invoke(ASK)
    app.invoke(ASK)
    left[0].run(model.invoke, "hi")
    with pytest.raises(CallRefused):
        left[0].run(model.invoke, "hi")
    assert model.calls == 2


def test_a_reservation_is_taken_by_one_call() -> None:
    reservation = Reservation(())
    assert reservation.take("a")
    assert reservation.take("a")
    assert not reservation.take("b")


def test_a_call_that_fails_gives_its_reservation_back() -> None:
    model = ScriptedChatModel(script=[ConnectionError("down"), AIMessage("up")])
    sentinel = Sentinel(policy={"budgets": [{"tokens": 1200}]})
    guarded = guard_model(model, sentinel)
    with sentinel.session("s"):
        with pytest.raises(ConnectionError):
            guarded.invoke("hi")
        assert guarded.invoke("hi").content == "up"


def test_a_call_that_is_cancelled_keeps_no_reservation() -> None:
    class Slow(ScriptedChatModel):
        async def _agenerate(self, *args: Any, **kwargs: Any) -> Any:
            await asyncio.sleep(60)

    watching = TokenSentinelMiddleware(policy={"budgets": [{"tokens": 2000}]})
    app = create_agent(Slow(script=["done"]), [], middleware=[watching])

    async def timed_out() -> None:
        async with asyncio.timeout(0.1):
            await app.ainvoke(ASK)

    for _ in range(3):
        with pytest.raises(TimeoutError):
            asyncio.run(timed_out())
    flight = watching.sentinel.in_flight
    assert (len(flight.started), len(flight.reservations)) == (0, 0)
    assert watching.sentinel.health().calls == 3
    assert watching.sentinel.decisions() == []


# --- what goes wrong between the two -------------------------------------------------------------


def reserved(sentinel: Sentinel) -> int:
    """Reservations that nobody has settled."""
    assert sentinel.governor.budgets is not None
    return sum(len(account.reserved) for account in sentinel.governor.budgets._memory._accounts.values())


@pytest.mark.parametrize("way", ["invoke", "stream", "ainvoke", "astream"])
@pytest.mark.parametrize("door", ["middleware", "node", "model"])
def test_who_is_interrupted_while_waiting_keeps_no_reservation(
    door: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sentinel = Sentinel(policy={"budgets": [{"calls": 100}]})
    model, prepare, rest = ScriptedChatModel(script=[DONE]), Interventions.prepare, asyncio.sleep
    running: list[asyncio.Task[Any]] = []

    def waits(self: Interventions, here: Here, turn: Turn, *args: Any, **kwargs: Any) -> Any:
        admission = prepare(self, here, turn, *args, **kwargs)
        assert reserved(sentinel) == 1
        turn.wait = 7.5
        return admission

    def sleep(seconds: float) -> None:
        assert seconds == 7.5
        raise KeyboardInterrupt

    async def asleep(seconds: float, *given: Any) -> Any:
        if seconds == 7.5:
            running[0].cancel()
        return await rest(seconds, *given)

    monkeypatch.setattr(Interventions, "prepare", waits)
    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(asyncio, "sleep", asleep)
    app: Any = guard_model(model, sentinel)
    if door == "middleware":
        app = create_agent(model, [step], middleware=[TokenSentinelMiddleware(sentinel)])
    elif door == "node":
        app = GuardedNode(RunnableLambda(lambda _: model.invoke("hi")), Interventions(sentinel), "think")
        sentinel.in_flight.model_nodes["think"] = Called("gpt-4o", "openai", None, None)
    asked = "hi" if door == "model" else {"messages": [HumanMessage("go")]}

    async def arun() -> None:
        task = asyncio.current_task()
        assert task is not None
        running.append(task)
        if way == "ainvoke":
            await app.ainvoke(asked)
        else:
            async for _ in app.astream(asked):
                pass

    def run() -> None:
        if way in ("ainvoke", "astream"):
            asyncio.run(arun())
        else:
            list(app.stream(asked)) if way == "stream" else app.invoke(asked)

    with pytest.raises((KeyboardInterrupt, asyncio.CancelledError)):
        run()
    assert (reserved(sentinel), model.calls) == (0, 0)
    assert sentinel.health().faults == {}


def test_a_cheaper_model_that_takes_no_tools_is_not_taken() -> None:
    """What cannot be done has failed, and the call that is made instead is reserved for once."""
    policy = {"budgets": [{"calls": 1, "do": "downgrade"}, {"calls": 100}], "downgrade": {"gpt-4o*": "cheap"}}
    sentinel = Sentinel(policy=policy)
    model = ScriptedChatModel(script=["one", "two"])
    cheap = FakeListChatModel(responses=["cheap"])
    guarded = guard_model(model, sentinel, models={"cheap": cheap}).bind_tools([step])
    with sentinel.session("s"):
        assert [guarded.invoke("hi").content for _ in range(2)] == ["one", "two"]
    assert sentinel.governor.budgets is not None
    assert (reserved(sentinel), held_calls(sentinel)) == (0, 2)
    assert [(d.outcome, d.why) for d in sentinel.decisions() if d.action == "downgrade"] == [
        ("failed", "NotImplementedError")
    ]


def held_calls(sentinel: Sentinel) -> int:
    assert sentinel.governor.budgets is not None
    accounts = sentinel.governor.budgets._memory._accounts
    return next(account.used for key, account in accounts.items() if key.startswith("calls:"))


def test_a_state_that_cannot_be_changed_goes_on_as_it_is() -> None:
    @dataclass
    class Few:
        messages: Annotated[list[Any], add_messages]

        def __post_init__(self) -> None:
            if any(MARK in getattr(m, "additional_kwargs", ()) for m in self.messages):
                raise ValueError

    model = ScriptedChatModel(script=[*[LOOP] * 4, DONE])
    bound = model.bind_tools([fetch_page])
    builder = StateGraph(Few)
    builder.add_node("think", lambda state: {"messages": [bound.invoke(state.messages)]})
    builder.add_node("tools", ToolNode([fetch_page]))
    builder.add_edge(START, "think")
    builder.add_conditional_edges("think", lambda s: "tools" if s.messages[-1].tool_calls else END)
    builder.add_edge("tools", "think")
    sentinel = Sentinel(
        policy={
            "rules": {"tool_loop": {"min_severity": "low", "steps": [{"at": 1, "do": "steer"}]}},
            "budgets": [{"calls": 100, "per": "project"}],
        }
    )
    guard(builder, sentinel).compile().invoke(ASK)
    assert model.calls == 5
    assert (reserved(sentinel), held_calls(sentinel)) == (0, 5)
    outcomes = {d.outcome for d in sentinel.decisions()}
    assert "failed" in outcomes
    assert "done" not in outcomes


@pytest.mark.parametrize("place", ["admit", "keep", "end"])
def test_a_call_counts_and_keeps_no_reservation_whatever_goes_wrong(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sentinel = Sentinel(policy={"budgets": [{"calls": 100}]})
    broken: list[Any] = [MemoryError()] * (2 if place == "admit" else 1)  # it would be asked again
    owner, name = {
        "admit": (Governor, "admit"),
        "keep": (InFlight, "keep"),
        "end": (Memory, "request"),
    }[place]
    whole = getattr(owner, name)

    def once(*args: Any, **kwargs: Any) -> Any:
        if broken:
            raise broken.pop()
        return whole(*args, **kwargs)

    monkeypatch.setattr(owner, name, once)
    model = ScriptedChatModel(script=["done"])
    assert model.invoke("hi", {"callbacks": [TokenSentinelHandler(sentinel, mode="block")]}).content == "done"
    health = sentinel.health()
    assert (health.calls, sum(health.faults.values()), reserved(sentinel)) == (1, 1, 0)
    assert sentinel.in_flight.started == sentinel.in_flight.reservations == {}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit()])
@pytest.mark.parametrize("name", ["keep", "request"])
def test_an_interrupt_inside_a_hook_leaves_nothing_behind(
    name: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    sentinel = Sentinel(policy={"budgets": [{"calls": 100}]})

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        raise error

    monkeypatch.setattr(InFlight if name == "keep" else Memory, name, interrupted)
    guarded = guard_model(ScriptedChatModel(script=["done"]), sentinel)
    with pytest.raises(type(error)):
        guarded.invoke("hi")
    assert reserved(sentinel) == 0
    assert sentinel.in_flight.started == sentinel.in_flight.reservations == {}


def test_an_account_is_never_out_of_its_table() -> None:
    """An interrupt, a fork or a finalizer would find it gone, and what was spent with it."""

    class Interrupted(OrderedDict[str, Any]):
        def __setitem__(self, key: str, value: Any) -> None:
            if self.__dict__.get("interrupts"):
                raise KeyboardInterrupt
            super().__setitem__(key, value)

    store, checks = MemoryStore(), [Check("calls:x", None, 1, False, 0.0)]
    store._accounts = Interrupted()
    store.reserve("a", checks, AT)
    vars(store._accounts)["interrupts"] = True
    with contextlib.suppress(KeyboardInterrupt):
        store.reserve("b", checks, AT)
    assert "calls:x" in store._accounts
