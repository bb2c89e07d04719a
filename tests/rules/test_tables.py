"""Each rule: cases that must fire (at which call, with how much waste) and near misses that must not."""

from __future__ import annotations

import pytest
from histories import START, Script, tools

from ts_langchain import Sentinel
from ts_langchain.call import Prompt, Usage


def loop(n: int, **kw: object) -> Script:
    s = Script()
    for _ in range(n):
        s.tool("fetch_page", {"url": "https://e.com/a"}, "same page", **kw)  # type: ignore[arg-type]
    return s


def storm(n: int, *, gap: float = 2.0, status: str = "error", **kw: object) -> Script:
    s = Script()
    for _ in range(n):
        s.say("x", prompt=Prompt(5, 7, 2, 400), status=status, error="RateLimitError", **kw)  # type: ignore[arg-type]
        s.wait(gap - 1)
    return s


def asked_again(n: int, **more: int) -> Script:
    s = Script()
    for _ in range(n):
        s.say("same", prompt=Prompt(5, 7, 2, 400), temperature=0.0, **more)
    return s


def growing(turns: int, step: int, *, start: int = 1000, repeated: float = 0.0, cached: float = 0.0) -> Script:
    s = Script()
    for i in range(turns):
        sent = start + i * step
        prompt = Prompt(i + 1, 7, 2 * i + 2, sent * 4, repeated_chars=int(sent * 4 * repeated))
        s.say(f"answer {i}", sent=sent, prompt=prompt, usage=Usage(sent, 50, int(sent * cached)))
    return s


def offered(calls: int, number: int, size: int) -> Script:
    s = Script()
    for i in range(calls):
        s.say(f"answer {i}", sent=20_000, toolset=tools(number, size))
    return s


FIRES = {
    # rule, script, severity, wasted tokens, wasted calls
    "tool_loop: three identical calls": ("tool_loop", loop(3), "high", 2 * 1020, 2),
    "tool_loop: two identical calls are worth knowing": ("tool_loop", loop(2), "low", 1020, 1),
    "tool_loop: a reworded thought": (
        "tool_loop",
        Script()
        .tool("ask_expert", {"question": "what does the contract say about early termination"}, "no idea")
        .tool("ask_expert", {"question": "what does the contract say about an early termination"}, "no idea")
        .tool("ask_expert", {"question": "what does the contract say about termination early"}, "no idea"),
        "medium",
        2040,
        2,
    ),
    "tool_loop: answers not captured": ("tool_loop", loop(3, captured=False), "medium", 2040, 2),
    "retrieval_thrash: the same documents again": (
        "retrieval_thrash",
        Script()
        .retrieve("refund policy for late parcels", ["a", "b"])
        .retrieve("policy for refund of late parcels", ["b", "a"])
        .retrieve("refund policy late parcels", ["a"]),
        "high",
        0,
        2,
    ),
    "retrieval_thrash: a search tool": (
        "retrieval_thrash",
        Script()
        .tool("search_docs", {"query": "sso plan pricing"}, "page 1")
        .tool("search_docs", {"query": "pricing sso plan"}, "page 1")
        .tool("search_docs", {"query": "plan pricing sso"}, "page 1"),
        "high",
        2040,
        2,
    ),
    "retry_storm: five failures in ten seconds": ("retry_storm", storm(5), "high", 4 * 1050, 4),
    "retry_storm: identical answers at temperature 0": (
        "retry_storm",
        storm(5, status="ok", temperature=0.0),
        "high",
        4 * 1050,
        4,
    ),
    "context_bloat: repeated blocks in half of a growing window": (
        "context_bloat",
        growing(12, 5000, repeated=0.2),
        "medium",
        None,
        None,
    ),
    "model_misroute: yes or no to a frontier model": (
        "model_misroute",
        Script().say("yes", sent=300, got=1, prompt=Prompt(1, 7, 1, 900, classification=True)),
        "low",
        0,
        1,
    ),
    "zombie: six minutes of failures": (
        "zombie",
        (
            Script()
            .tool("a", {"n": 1}, "Error x", status="error", seconds=60)
            .tool("b", {"n": 2}, "Error y", status="error", seconds=60)
            .tool("c", {"n": 3}, "Error z", status="error", seconds=60)
            .tool("d", {"n": 4}, "Error v", status="error", seconds=60)
            .tool("e", {"n": 5}, "Error w", status="error", seconds=60)
            .tool("f", {"n": 6}, "Error u", status="error", seconds=60)
        ),
        "high",
        None,
        None,
    ),
    "embedding_waste: the same text twice": (
        "embedding_waste",
        Script().embed(["the same text", "another"]).embed(["the same text"]),
        "low",
        len("the same text"),
        1,
    ),
    "tool_definition_bloat: 40 tools of 1 KB": (
        "tool_definition_bloat",
        offered(3, 40, 1000),
        "medium",
        3 * 10_000,
        3,
    ),
}


@pytest.mark.parametrize("case", FIRES)
def test_fires(case: str) -> None:
    rule, script, severity, tokens, calls = FIRES[case]
    found = script.run().incidents()
    assert [i.rule for i in found] == [rule]
    incident = found[0]
    assert incident.severity == severity
    if tokens is not None:
        assert incident.wasted_tokens == tokens
        assert incident.calls == calls
    assert 0 <= incident.avoidable_nano <= incident.wasted_nano
    # fires at the last call of the table's script and not before
    earlier = Script(calls=script.calls[:-1]).run().incidents()
    assert all(i.severity != incident.severity or i.findings < incident.findings for i in earlier)


def polling() -> Script:
    s = Script()
    for i in range(12):
        s.tool(
            "get_job",
            {"id": 4},
            '{"state": "running"}' if i < 11 else '{"state": "done"}',
            seconds=4,
            pending=i < 11,
        )
    return s


def parallel_samples() -> Script:
    s = Script()
    for i in range(6):
        s.say(f"sample {i}", prompt=Prompt(5, 7, 2, 400), temperature=0.0)
    s.calls = [c._replace(started_at=START, ended_at=START + 2 + i / 10, answer=3) for i, c in enumerate(s.calls)]
    return s


HEALTHY = {
    "four files of one directory": Script()
    .tool("read_file", {"path": "src/a.py"}, "1")
    .tool("read_file", {"path": "src/b.py"}, "2")
    .tool("read_file", {"path": "src/c.py"}, "3")
    .tool("read_file", {"path": "src/d.py"}, "4"),
    "four empty files of one directory": Script()
    .tool("read_file", {"path": "src/a/__init__.py"}, "")
    .tool("read_file", {"path": "src/b/__init__.py"}, "")
    .tool("read_file", {"path": "src/c/__init__.py"}, "")
    .tool("read_file", {"path": "src/d/__init__.py"}, ""),
    "three SQL statements that differ in one value": Script()
    .tool("run_sql", {"sql": "select name from users where id = 1"}, "[]")
    .tool("run_sql", {"sql": "select name from users where id = 2"}, "[]")
    .tool("run_sql", {"sql": "select name from users where id = 3"}, "[]"),
    "SQL that differs in a quoted name": Script()
    .tool("sql_query", {"query": "select id from users where name = 'alice'"}, "[]")
    .tool("sql_query", {"query": "select id from users where name = 'bob'"}, "[]")
    .tool("sql_query", {"query": "select id from users where name = 'carol'"}, "[]"),
    "e-mails to five recipients": Script()
    .tool("send_email", {"to": "a@x.com", "body": "please find the report attached"}, "sent")
    .tool("send_email", {"to": "b@x.com", "body": "please find the report attached"}, "sent")
    .tool("send_email", {"to": "c@x.com", "body": "please find the report attached"}, "sent")
    .tool("send_email", {"to": "d@x.com", "body": "please find the report attached"}, "sent")
    .tool("send_email", {"to": "e@x.com", "body": "please find the report attached"}, "sent"),
    "paging with a cursor": Script()
    .tool("list_orders", {"cursor": "abc"}, "page 1")
    .tool("list_orders", {"cursor": "def"}, "page 2")
    .tool("list_orders", {"cursor": "ghi"}, "page 3"),
    "paging to an empty end": Script()
    .tool("list_orders", {"page": 1}, "[]")
    .tool("list_orders", {"page": 2}, "[]")
    .tool("list_orders", {"page": 3}, "[]"),
    "polling every 4 s until the status changes": polling(),
    "polling by name": Script()
    .tool("check_status", {"id": 1}, "not yet")
    .tool("check_status", {"id": 1}, "not yet")
    .tool("check_status", {"id": 1}, "not yet"),
    "best of six": parallel_samples(),
    "nobody recorded what it was answered": asked_again(12, answer=0),
    "eleven minutes of research in 14 steps": (
        lambda s: [s.tool("read_page", {"url": f"https://e.com/{i}"}, f"finding {i}", seconds=48) for i in range(14)][
            -1
        ]
    )(Script()),
    "12 turns to 18 000 of 128 000": growing(12, 1600, start=500),
    "a large context read from the cache": growing(12, 5000, repeated=0.2, cached=0.98),
    "a steady 15 000 token prompt": growing(12, 1, start=15_000),
    "100 documents through one handler": (
        lambda s: [s.embed([f"document {i}"]).say(f"summary {i}", prompt=Prompt(i, i, 1, 3000)) for i in range(100)][-1]
    )(Script()),
    "30 tiny tools": offered(6, 30, 83),
    "a booking changed twice and obeyed": Script()
    .tool("book_seat", {"seat": "1A"}, "ok")
    .tool("cancel_seat", {"seat": "1A"}, "ok")
    .tool("book_seat", {"seat": "2B"}, "ok")
    .tool("cancel_seat", {"seat": "2B"}, "ok")
    .tool("book_seat", {"seat": "1A"}, "ok"),
    "a request that is answered at the third try": storm(2).say("done", prompt=Prompt(5, 7, 2, 400)),
    "the same question on different days": storm(4, gap=86_400),
    "similar searches that find something new": Script()
    .retrieve("refund policy for late parcels", ["a"])
    .retrieve("refund policy for very late parcels", ["b"])
    .retrieve("refund policy for parcels that are late", ["c"]),
    "a yes or no question to a small model": Script(model="gpt-4o-mini").say(
        "yes", sent=300, got=1, prompt=Prompt(1, 7, 1, 900, classification=True)
    ),
    "a classification of a long document": Script().say(
        "legal", sent=9000, got=1, prompt=Prompt(1, 7, 1, 36_000, classification=True)
    ),
    "large tools that are used": offered(1, 40, 1000),
}


@pytest.mark.parametrize("case", HEALTHY)
def test_healthy_traffic_is_left_alone(case: str) -> None:
    assert HEALTHY[case].run().incidents() == []


def test_a_query_embedded_again_is_waste_and_no_storm() -> None:
    s = Script()
    for _ in range(12):
        s.embed(["what is the refund policy"])
    assert [i.rule for i in s.run().incidents()] == ["embedding_waste"]


def test_settings_carry_over() -> None:
    assert loop(4).run(settings={"tool_loop.min_calls": 5}).incidents() == []
    assert loop(5).run(settings={"tool_loop.min_calls": 5}).incidents()[0].severity == "high"
    assert loop(5).run(settings={"tool_loop.enabled": False}).incidents() == []
    assert loop(5).run(settings={"tool_loop.exempt_tools": ["fetch_page"]}).incidents() == []


def test_only_the_chosen_rules_run() -> None:
    assert loop(5).run(rules=["retry_storm"]).incidents() == []


def test_one_incident_goes_on_and_is_closed_by_silence() -> None:
    script = loop(3).wait(3600)
    for _ in range(2):
        script.tool("fetch_page", {"url": "https://e.com/a"}, "same page")
    found = script.run(rules=["tool_loop"]).incidents()
    assert [i.closed for i in found] == [True, False]
    assert len({i.id for i in found}) == 2


def test_avoidable_is_what_comes_after_the_first_detection() -> None:
    incident = loop(10).run().incidents()[0]
    assert incident.wasted_tokens == 9 * 1020
    assert incident.avoidable_tokens == 8 * 1020


def test_failed_calls_waste_time_and_no_invented_dollars() -> None:
    incident = storm(5, usage=Usage()).run().incidents()[0]
    assert incident.wasted_nano == 0
    assert incident.wasted_seconds == pytest.approx(4.0)


def test_a_turn_is_wasted_as_a_whole_only_if_all_its_calls_are() -> None:
    script = loop(1).tool("fetch_page", {"url": "https://e.com/a"}, "same page")
    twin = script.calls[-1]._replace(siblings=2)
    half = Script(calls=[*script.calls[:-1], twin]).run().incidents()[0]
    assert (half.wasted_input_tokens, half.wasted_output_tokens) == (0, 10)


def test_a_broken_rule_does_not_silence_the_others() -> None:
    from ts_langchain.rules import RULES
    from ts_langchain.rules.zombie import Zombie

    class Broken(Zombie):
        name = "broken"

        def observe(self, call: object, state: object) -> None:
            raise RuntimeError

    sentinel = Sentinel(rules=[Broken, *RULES])
    for call in loop(3).calls:
        sentinel.observe(call)
    assert [i.rule for i in sentinel.incidents()] == ["tool_loop"]
    assert sentinel.health().faults == {"rule broken: RuntimeError": 6}
