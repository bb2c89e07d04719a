"""Fingerprints: bounded, the same in every process, and no coarser or finer than they say."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, ToolMessage

from ts_langchain.capture.conversation import LargeResult, names_in
from ts_langchain.capture.messages import Asked
from ts_langchain.fingerprint import (
    _LITERAL,
    ITEM_LIMIT,
    FreeText,
    answer_hash,
    arguments,
    failure_hash,
    gist_hash,
    value_hash,
)

JAPANESE = "この製品は音質の評価が高い一方で電池の持ちが短いという声もあります"
odd_text = st.text(st.sampled_from("ab \"'1@/_é日\n\\"), max_size=40)


@given(odd_text)
def test_literals_are_what_the_plain_pattern_finds(text: str) -> None:
    plain = re.compile(r"\"[^\"]*\"|'[^']*'|\S*[\d@/_\\]\S*")
    assert _LITERAL.findall(text) == plain.findall(text)


@given(st.text(max_size=2_000), st.text(max_size=2_000))
def test_a_stored_residue_compares_as_the_live_one(one: str, other: str) -> None:
    stored = pickle.loads(pickle.dumps(FreeText(one)))  # noqa: S301 - just written
    assert stored.similarity(FreeText(other)) == FreeText(one).similarity(FreeText(other))
    assert FreeText(one).similarity(FreeText(one)) == 1.0


def test_rewordings_are_alike_and_numbers_tell_apart() -> None:
    def alike(one: str, other: str) -> float:
        return FreeText(one).similarity(FreeText(other))

    assert alike("weather in Paris tomorrow please", "please weather tomorrow in Paris") == 1.0
    assert alike("weather in Paris on day 3", "weather in Paris on day 4") == 0.0
    assert alike(JAPANESE, JAPANESE[:-3]) > 0.8
    assert alike(JAPANESE, "会議は来週の火曜日に延期されました") < 0.2


@pytest.mark.parametrize("at", [0, 40_000, 999_999])
def test_what_is_new_may_stand_anywhere_in_a_long_answer(at: int) -> None:
    before = "x" * 1_000_000
    after = f"{before[:at]}y{before[at + 1 :]}"
    assert answer_hash(before) != answer_hash(after)
    assert answer_hash(before * 100 + "end") != answer_hash(before * 100 + "END")
    assert value_hash(before) != value_hash(after) or at == 40_000  # of arguments both ends are read


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=20), max_size=5))
def test_the_order_of_keys_does_not_count(args: dict[str, Any]) -> None:
    turned = dict(reversed(args.items()))
    assert arguments(args).fingerprint == arguments(turned).fingerprint
    assert value_hash(args) == value_hash(turned)


def test_a_large_result_counts_as_used_once_something_it_names_turns_up() -> None:
    text = "The customers. " + "; ".join(f"Customer{n:04} paid {n * 37} EUR" for n in range(400))
    for wrote, used in (("I see.", False), ("Then customer0231 it is", True), ("\ud800", False)):
        large = LargeResult(0, len(text))
        large.turn(names_in(AIMessage(wrote), ()), ToolMessage(text, tool_call_id="c"))
        assert large.used is used, wrote
    called = Asked("c", "refund", {"customer": "Customer0399"}, 0, 0)
    large.turn(names_in(AIMessage(""), [called]), ToolMessage(text, tool_call_id="c"))
    assert large.used


CALLS = """
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from ts_langchain import Sentinel, TokenSentinelHandler
from ts_langchain.testing import ScriptedChatModel

sentinel, calls = Sentinel(), []
observe = sentinel.observe
sentinel.observe = lambda call: (calls.append(call), observe(call))
model = ScriptedChatModel(script=["first", "second", "third"])
asked = {"name": "look", "args": {"b": [1, None, "x"], "a": {"deep": True}}, "id": "c1", "type": "tool_call"}
history = [HumanMessage("go"), AIMessage("", tool_calls=[asked]), ToolMessage("page", tool_call_id="c1")]
for temperature in (None, 0.0, 0.5):
    config = {"callbacks": [TokenSentinelHandler(sentinel)], "metadata": {"thread_id": "t"}}
    model.bind(temperature=temperature).invoke(history, config)
for c in calls:
    print(c.kind, c.request, c.answer, c.prompt, c.toolset, c.arguments and c.arguments[:2], c.tool_calls)
"""


def test_fingerprints_are_the_same_in_every_process() -> None:
    told = {
        subprocess.run([sys.executable, "-c", CALLS], capture_output=True, check=True, text=True).stdout
        for _ in range(4)
    }
    assert len(told) == 1
    assert "model" in told.pop()


ID = "req_011CSHoEeqs5C35K2UUqR7Fy"


def boto(request: str, at: str, instance: str = "i-1") -> str:
    headers = {"x-amzn-requestid": request, "date": f"Sun, 22 Nov 2026 {at} GMT"}
    metadata = {"RequestId": request, "HTTPStatusCode": 200, "HTTPHeaders": headers, "RetryAttempts": 0}
    return str({"Instances": [{"InstanceId": instance}], "ResponseMetadata": metadata})


def curl(at: str, ray: str, more: str = 'etag: "1"') -> str:
    return f"HTTP/2 200\ndate: Sun, 22 Nov 2026 {at} GMT\ncf-ray: {ray}\nx-ratelimit-remaining: {ray}\n{more}\n\nhello"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (f'{{"a": 1, "request_id": "{ID}"}}', f'{{"a": 1, "request_id": "{ID[::-1]}"}}', True),
        (f"{{'a': 1, 'traceId': '{ID}'}}", f"{{'a': 1, 'traceId': '{ID[::-1]}'}}", True),
        ('{"a": 1, "request_id": "REQ-1"}', '{"a": 1, "request_id": "REQ-2"}', False),  # a customer's
        (f'{{"request_id": "{ID}"}}', f'{{"request_id": "{ID[::-1]}"}}', False),  # all there is
        ('{"response_time": 1.25, "a": 1}', '{"response_time": 0.5, "a": 1}', True),
        ('{"took": 3, "a": 1}', '{"took": 12, "a": 1}', True),
        ('{"took": "rook", "a": 1}', '{"took": "pawn", "a": 1}', False),
        ('{"host": "a", "latency_ms": 100}', '{"host": "a", "latency_ms": 400}', False),
        ("The driver arrives in 4.5 min.", "The driver arrives in 3.2 min.", False),
        ("Lap 3 finished in 81.2 s", "Lap 3 finished in 80.9 s", False),
        ("Load test done: response time 0.53 s", "Load test done: response time 0.61 s", False),
        ("Empty set (0.01 sec)", "Empty set (0.02 sec)", True),
        ("(0 rows)\n\nTime: 1.204 ms", "(0 rows)\n\nTime: 0.981 ms", True),
        (
            "--- FAIL: TestX (0.12s)\nFAIL\texample.com/x\t0.21s",
            "--- FAIL: TestX (0.14s)\nFAIL\texample.com/x\t0.25s",
            True,
        ),
        ("Finished in 0.02 seconds\n3 examples, 1 failure", "Finished in 0.04 seconds\n3 examples, 1 failure", True),
        ("https://b/o?X-Amz-Date=1&X-Amz-Signature=a&v=1", "https://b/o?X-Amz-Date=2&X-Amz-Signature=b&v=1", True),
        ("https://b/o?X-Amz-Date=1&v=1", "https://b/o?X-Amz-Date=1&v=2", False),
        ("in /tmp/tmp.3Hf0aQ9zXk/a", "in /tmp/tmp.9Kf1bW8yZp/a", True),
        ("{'a': 1, 'elapsed_ms': 7.1}", "{'a': 1, 'elapsed_ms': None}", True),
        ('{"a": 1, "request_id": "x1"}', '{"a": 2, "request_id": "x1"}', False),
        ('{"request_id": {"a": 1}}', '{"request_id": {"a": 2}}', False),
        ('{"order_id": "x1"}', '{"order_id": "x2"}', False),
        ('{"elapsed_days": 3}', '{"elapsed_days": 4}', False),
        ('{"request_ids": "x1"}', '{"request_ids": "x2"}', False),
        ('{"timestamp": 1}', '{"timestamp": 2}', False),
        (
            '{"timestamp": "09:00:01", "timezone": "UTC"}',
            '{"timestamp": "09:00:02", "timezone": "UTC"}',
            False,
        ),  # a clock
        ('{"city": "Bonn", "current_time": "09:00:01"}', '{"city": "Bonn", "current_time": "09:00:02"}', False),
        ('{"elapsed_seconds": 12}', '{"elapsed_seconds": 30}', False),  # a stopwatch
        ('{"status": "ok", "elapsed_seconds": 12}', '{"status": "ok", "elapsed_seconds": 30}', True),
        ('{"request_id": "r1"}', '{"request_id": "r2"}', False),
        ('{"generationtime_ms":0.045,"t":12}', '{"generationtime_ms":0.051,"t":12}', True),  # Open-Meteo
        ('{"generationtime_ms":0.045,"t":12}', '{"generationtime_ms":0.051,"t":13}', False),
        ('{"hits": 3, "processingTimeMS": 1}', '{"hits": 3, "processingTimeMS": 2}', True),  # Algolia
        ('{"created_at": "09:00:01", "n": 1}', '{"created_at": "09:00:02", "n": 1}', False),
        (boto("a1", "09:00:01"), boto("b2", "09:00:02"), True),
        (boto("a1", "09:00:01"), boto("a1", "09:00:01", "i-2"), False),
        (curl("09:00:01", "8f1"), curl("09:00:02", "9a2"), True),
        (curl("09:00:01", "8f1"), curl("09:00:01", "8f1", 'etag: "2"'), False),
        ("date: 1\nx-request-id: 1", "date: 2\nx-request-id: 2", False),  # no headers
        (f"{curl('09:00:01', '8f1')}\nage: 31", f"{curl('09:00:02', '9a2')}\nage: 31", True),
        (f"{curl('09:00:01', '8f1')}\nage: 31", f"{curl('09:00:01', '8f1')}\nage: 32", False),  # behind the headers
        (
            '{"free": true, "date": "Mon, 23 Nov 2026 00:00:00 GMT"}',
            '{"free": true, "date": "Tue, 24 Nov 2026 00:00:00 GMT"}',
            False,
        ),  # as Flask writes any date
        ("[<Order object at 0x7f31c2a4>]", "[<Order object at 0x7f31c9d8>]", True),
        ("meet at 0x12", "meet at 0x13", False),
        ("stopped at 0x401136", "stopped at 0x40113a", False),  # a debugger
        (
            "<code object f at 0x7f31c2a4, file 'a.py', line 1>",
            "<code object f at 0x7f31c9d8, file 'a.py', line 1>",
            True,
        ),
        ('File "/tmp/tmpx2k9q_1z/main.py", line 3', 'File "/tmp/tmpb7_2ka9c/main.py", line 3', True),
        ('File "/tmp/tmpx2k9q_1z/main.py", line 3', 'File "/tmp/tmpx2k9q_1z/main.py", line 4', False),
        ("no file /tmp/box-3fa85f64/a", "no file /tmp/box-9c0d1e2b/a", True),
        ("in /tmp/3fa85f645717.py, line 3", "in /tmp/9c0d1e2b5717.py, line 3", True),
        ("in /tmp/report-20261122.csv", "in /tmp/report-20261123.csv", False),
        ("in /tmp/deadbeef", "in /tmp/feedbeef", False),
        (
            "see ~/.npm/_logs/2026-11-22T09_00_01_120Z-debug-0.log",
            "see ~/.npm/_logs/2026-11-23T10_00_01_120Z-debug-0.log",
            True,
        ),
        ("wrote /tmp/tmpfiles1/a", "wrote /tmp/tmpfiles2/a", False),
        ("as Lee shows, In [12]", "as Lee shows, In [13]", False),
        ("Cell In[5], line 1\nNameError", "Cell In[6], line 1\nNameError", True),
        ("it took 3 days", "it took 4 days", False),
        ("F.\n=== 1 failed, 9 passed in 0.53s ===", "F.\n=== 1 failed, 9 passed in 12.04s ===", True),
        ("Ran 12 tests in 0.532 seconds\n\nFAILED", "Ran 12 tests in 0.611 seconds\n\nFAILED", True),
        ("=== 2 failed in 0.53s ===", "=== 1 failed in 0.53s ===", False),
        ("ready in 30 s", "ready in 20 s", False),
        (
            "Exit code: 101\nWall time: 1.2 seconds\nOutput:\nE1",
            "Exit code: 101\nWall time: 0.9 seconds\nOutput:\nE1",
            True,
        ),
        ("Chunk ID: a1b2c3\nWall time: 1.21 seconds\nE1", "Chunk ID: 0f9e8d\nWall time: 0.98 seconds\nE1", True),
        ("Exit Code: 1\nProcess Group PGID: 71", "Exit Code: 1\nProcess Group PGID: 97", True),
        (
            '{"output": "E1", "metadata": {"exit_code": 101, "duration_seconds": 1.2}}',
            '{"output": "E1", "metadata": {"exit_code": 101, "duration_seconds": 0.9}}',
            True,
        ),
        ('{"title": "Help!", "duration_seconds": 138}', '{"title": "Help!", "duration_seconds": 139}', False),
        ("E1\n\nBUILD FAILED in 3s\n3 actionable tasks", "E1\n\nBUILD FAILED in 1m 12s\n3 actionable tasks", True),
        ("BUILD FAILED in 3s", "BUILD SUCCESSFUL in 3s", False),
        (
            "[INFO] Total time:  1.2 s\n[INFO] Finished at: 2026-11-23T01:10:11Z",
            "[INFO] Total time:  3.4 s\n[INFO] Finished at: 2026-11-23T01:12:40+01:00",
            True,
        ),
        ("✓ 34 modules transformed.\n✓ built in 345ms", "✓ 34 modules transformed.\n✓ built in 1.02s", True),
        ("House 4 was built in 1980s style", "House 4 was built in 1990s style", False),
        (
            "    Finished `dev` profile [unoptimized] target(s) in 0.52s",
            "    Finished `dev` profile [unoptimized] target(s) in 1m 03s",
            True,
        ),
        (
            "  ✕ adds (5 ms)\nTests: 1 failed\nSnapshots:   0 total\nTime:        1 s\nRan all",
            "  ✕ adds (7 ms)\nTests: 1 failed\nSnapshots:   0 total\nTime:        0.8 s\nRan all",
            True,
        ),
        (
            "   Start at  10:31:02\n   Duration  312ms (transform 20ms, tests 2ms)",
            "   Start at  10:33:40\n   Duration  1.02s (transform 31ms, tests 2ms)",
            True,
        ),
        ("sorted a million rows\nTime: 1.21 s", "sorted a million rows\nTime: 1.34 s", False),
        ("the trip takes longer\nDuration 3 h", "the trip takes longer\nDuration 4 h", False),
        ("0.53 shares", "0.54 shares", False),
        ("1.5 s" + 400 * "x", "1.6 s" + 400 * "x", False),  # what it says, not how long it took
        ("request_id: x1", "request_id: x2", False),
    ],
)
def test_answers_are_the_same_but_for_technical_fields(one: str, other: str, same: bool) -> None:
    assert (answer_hash(one) == answer_hash(other)) == same


CLOCK = '{"timestamp": "09:00:01", "timezone": "UTC"}'
AT = 1_795_372_391.5  # 2026-11-22 18:33:11


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ('{"results": [], "timestamp": "09:00:01"}', '{"results": [], "timestamp": "09:00:02"}', True),
        ("{'rows': 3, 'fetched_at': 1.5}", "{'rows': 3, 'fetched_at': 2.5}", True),
        (
            "{'date': 'Sun, 22 Nov 2026 09:00:01 GMT', 'content-type': 'text/html'}",
            "{'date': 'Sun, 22 Nov 2026 09:00:02 GMT', 'content-type': 'text/html'}",
            True,
        ),
        (
            "{'Date': 'Sun, 22 Nov 2026 09:00:01 GMT', 'a': 1}",
            "{'Date': 'Sun, 22 Nov 2026 09:00:02 GMT', 'a': 1}",
            True,
        ),
        ('{"host": "a", "latency_ms": 100}', '{"host": "a", "latency_ms": 400}', True),
        ("The driver arrives in 4.5 min.", "The driver arrives in 3.2 min.", True),
        ('{"a": 1, "request_id": "REQ-1"}', '{"a": 1, "request_id": "REQ-2"}', True),
        ("none as of 2026-11-22T18:33:11.123Z", "none as of 2026-11-22T18:33:12.5Z", True),
        ("22 Nov 2026 18:33:11: 0 rows", "22 Nov 2026 18:33:10: 0 rows", True),
        ("2026-11-22 19:33:11 here", "2026-11-22 19:33:12 here", True),  # the next zone
        ("2026-11-23 00:03:11 here", "2026-11-23 00:03:12 here", True),  # India's
        ("slot at 2026-11-22 18:30:00, id 3f8a1b2c-5717-4562-b3fc-2c963f66afa6",
         "slot at 2026-11-22 18:45:00, id 9c0d1e2b-5717-4562-b3fc-2c963f66afa6", False),
        ("elapsed 00:33:11, 2026-11-22 18:33:11", "elapsed 00:33:12, 2026-11-22 18:33:12", False),
        ("made 3f8a1b2c-5717-4562-b3fc-2c963f66afa6", "made 9c0d1e2b-5717-4562-b3fc-2c963f66afa6", True),
        ("made 3f8a1b2c-5717-4562-b3fc-2c963f66afa6", "sold 9c0d1e2b-5717-4562-b3fc-2c963f66afa6", False),
    ],
)  # fmt: skip
def test_the_gist_of_an_answer_is_without_the_time_it_was_made_at(one: str, other: str, same: bool) -> None:
    assert answer_hash(one) != answer_hash(other)
    assert (gist_hash(one, AT, AT + 1) == gist_hash(other, AT, AT + 1)) == same
    assert gist_hash(one, AT, AT + 1) != 0


def test_an_answer_without_a_moment_or_an_id_has_no_gist_of_its_own() -> None:
    for text in ("0 rows", "2026-11-22", "at 18:33:11", "1-2-3", "2026-11-22 18:30:00", "3f8a1b2c-5717", CLOCK):
        assert gist_hash(text, AT, AT + 1) == 0
    assert gist_hash("2026-11-22 18:30:00", AT, AT + 7_200) == 0  # of what takes that long, any time would do


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("blocked as risky (probability: 0.71)", "blocked as risky (probability: 0.72)", True),  # AutoModeMiddleware
        ("timed out after 30.02 s", "timed out after 30.11 s", True),
        ("try again in 1.5s (request id: a1)", "try again in 2.25s (request id: b2)", True),
        ("2026-11-22 09:00:01,120 ERROR x", "2026-11-22 09:00:02,977 ERROR x", True),
        ("no seat on 2026-11-22 09:00:00", "no seat on 2026-11-23 09:00:00", False),
        ("ToolError: 2026-11-22 09:00:01,120 ERROR x", "ToolError: 2026-11-22 09:00:02,977 ERROR x", True),
        ("slot 2026-11-22T09:00:00.000Z is taken", "slot 2026-11-22T10:00:00.000Z is taken", False),
        ("blocked (Ray ID: 8e2f1)", "blocked (Ray ID: 9c0d4)", True),
        ("rate limit: retry after 2843 seconds", "rate limit: retry after 2841 seconds", True),
        ("quota exceeded, resets in 12 minutes", "quota exceeded, resets in 9 minutes", True),
        ("no train in 30 minutes", "no train in 40 minutes", False),
        (
            '{"jsonrpc":"2.0","id":94,"error":{"code":-32001}}',
            '{"jsonrpc":"2.0","id":95,"error":{"code":-32001}}',
            True,
        ),
        ('{"id": "a1", "jsonrpc": "2.0", "error": 1}', '{"id": "b2", "jsonrpc": "2.0", "error": 1}', True),
        ('{"jsonrpc":"2.0","id":94,"error":1}', '{"jsonrpc":"2.0","id":94,"error":2}', False),
        ("3 tests failed", "2 tests failed", False),
        ("no python 3.9 here", "no python 3.10 here", False),  # of whatever arguments: tried with others
        ("21.5 is out of range", "19.5 is out of range", False),
        ("coverage 71.3% is below 80.0%", "coverage 76.9% is below 80.0%", False),
        ("no version 1.2.3", "no version 1.2.4", False),
        ("10.0.0.1 refused", "10.0.0.2 refused", False),
    ],
)
def test_failures_are_the_same_but_for_what_was_measured(one: str, other: str, same: bool) -> None:
    assert (failure_hash(one) == failure_hash(other)) == same


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"sql": "CALL archive_orders(1000)"}, "write"),
        ({"sql": "EXEC dbo.PurgeBatch"}, "write"),
        ({"sql": "REFRESH MATERIALIZED VIEW sales"}, "write"),
        ({"sql": "COPY orders FROM 's3://b/x' CSV"}, "write"),
        ({"sql": "TRUNCATE staging"}, "write"),
        ({"sql": "WITH d AS (SELECT id FROM q LIMIT 9) DELETE FROM q USING d"}, "write"),
        ({"sql": "-- step 2\nUPDATE t AS x SET a = 1"}, "write"),
        ({"sql": "/* by hand */ VACUUM ANALYZE orders;"}, "write"),
        ({"cypher": "MATCH (n:Old) WITH n LIMIT 9 DETACH DELETE n"}, "write"),
        ({"url": "https://x.example", "method": "post"}, "write"),
        ({"command": "sleep 10 && kubectl get pods"}, "sleep"),
        ({"command": "cd /repo && git diff 2>&1 | head -20"}, "look"),
        ({"command": "ls -la"}, "look"),
        ({"cmd": "grep -rn foo src 2>/dev/null | wc -l"}, "look"),
        ({"commands": "find . -name '*.py'"}, "look"),
        ({"command": "view", "path": "/a"}, "view"),
        ({"command": "str_replace", "path": "/a"}, ""),
        ({"command": "cat > a.py <<'EOF'\nx = 1\nEOF"}, ""),
        ({"command": "cat a.py; python a.py"}, ""),
        ({"command": "ls && make"}, ""),
        ({"command": "ls | xargs rm"}, ""),
        ({"command": "ls $(mktemp -d)"}, ""),
        ({"command": "find . -name '*.pyc' -delete"}, ""),
        ({"command": "git checkout a.py"}, ""),
        ({"command": "sed -i s/a/b/ a.py"}, ""),
        ({"command": "sed -n '10,20p' a.py | head"}, "look"),
        ({"command": "sed -n 'w out.py' a.py"}, ""),
        ({"command": "sed -n -i 's/a/b/p' a.py"}, ""),
        ({"command": "find . -name a -fls out"}, ""),
        ({"command": "git diff --output=a.patch"}, ""),
        ({"command": "cat a | sort | uniq -c | sort -rn"}, "look"),
        ({"command": "cat a | sort -o a"}, ""),
        ({"command": "cat a | uniq - a"}, ""),
        ({"command": "tree -o out.txt"}, ""),
        ({"command": "rg --pre ./convert foo"}, ""),
        ({"command": "ls.sh"}, ""),
        ({"command": "gh pr view 7 --json state"}, "look"),
        ({"command": "aws ec2 describe-instances --region eu-west-1 | head"}, "look"),
        ({"command": "gcloud compute instances list"}, "look"),
        ({"command": "terraform validate"}, "look"),
        ({"command": "systemctl status nginx"}, "look"),
        ({"command": "gh pr create --fill"}, ""),
        ({"command": "aws s3api get-object --key list out.txt"}, ""),
        ({"command": "gcloud compute instances delete list"}, ""),
        ({"command": "terraform output > show.txt"}, ""),
        ({"command": "npm run list"}, ""),
        ({"q": "a", "page": 2}, "page"),
        ({"q": "a", "page": "2"}, "page"),
        ({"site": "wiki", "page": "Berlin"}, ""),
        ({"command": "python a.py"}, ""),
        ({"text": "which one is it"}, ""),
        ({"sql": "SELECT * FROM calls"}, ""),
        ({"sql": "WITH deleted AS (SELECT 1) SELECT * FROM deleted"}, ""),
        ({"cypher": "MATCH (n) RETURN n"}, ""),
        ({"url": "https://x.example", "method": "GET"}, ""),
        ({"text": "call me maybe"}, ""),
        ({"text": "update me on the set"}, ""),
        ({"text": "copy that from here"}, ""),
        ({"text": "vacuum cleaner prices"}, ""),
        ({"text": "vacuum"}, ""),
        ({"text": "truncate text in css"}, ""),
        ({"text": "call center (Berlin)"}, ""),
        ({"text": "refresh the search index"}, ""),
        ({"text": "Merge two dicts and delete the old one"}, ""),
        ({"cypher": "MATCH (n) WHERE n.name CONTAINS ' delete me' RETURN n"}, ""),
        ({"cypher": "CALL db.labels()"}, ""),
        ({"url": "https://x.example", "method": "POST", "query": "{ orders { id } }"}, ""),
    ],
)
def test_what_a_statement_or_a_command_is_told_to_do(given: dict[str, str], told: str) -> None:
    assert arguments(given).told == told


def test_what_lies_behind_a_long_beginning_counts() -> None:
    """Of free text a sample is compared; the rest has to be the same."""
    opening = "this agreement is made by and between the parties named below " * 10
    one, other, again = (
        arguments({"clause": f"{opening}{end}"}) for end in ("about rent", "about noise", "about rent")
    )
    assert one.similarity(other) == 0.0
    assert one.similarity(again) == 1.0
    shorter = arguments({"clause": opening[:500]}), arguments({"clause": f"{opening[:490]} end"})
    assert shorter[0].similarity(shorter[1]) > 0.7


def test_of_a_long_command_the_end_counts_too() -> None:
    assert arguments({"command": "cat " + "a" * 300}).told == "look"
    assert arguments({"command": "cat " + "a" * 600 + "; rm -r build"}).told == ""


def test_of_very_many_arguments_the_names_and_how_many_count() -> None:
    given: dict[str, object] = {f"key {n}": "a few words" for n in range(ITEM_LIMIT + 1)}
    assert arguments(given) == arguments({**given}) != arguments({**given, "more": 1})
    assert arguments(given) != arguments({**given, "key 0": "other words"})


def test_what_holds_itself_many_times_is_read_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """A live object may be small, and be no end of JSON."""
    monkeypatch.setattr("ts_langchain.fingerprint.NODE_LIMIT", 20_000)
    value: list[object] = ["word"]
    for _ in range(15):
        value = [value] * 10
    assert value_hash(value) == value_hash([*value]) != value_hash([*value, 1])


def test_of_a_very_long_list_the_beginning_counts() -> None:
    many = list(range(2_000_000))
    assert value_hash(many) == value_hash([*many]) != value_hash([-1, *many[1:]])
    rows = [[row] * 100 for row in range(ITEM_LIMIT)]
    assert value_hash(rows) != value_hash([*rows[:-1], [0] * 100])
