"""Which answers say that something is still under way."""

from __future__ import annotations

import json

import pytest
from langchain_core.messages import ToolMessage

from ts_langchain.capture.messages import is_pending
from ts_langchain.capture.tools import read_tool_output

WAITS = """
pending
Queued (position 3)
RUNNING
IN_QUEUE
SUBMITTED
still processing, please wait
in progress
In progress: 40 %
Not ready yet.
status: running
status: IN_QUEUE
Status is pending
{"status": "in_progress", "id": "j1"}
{"id": "j1", "state": "JOB_STATE_RUNNING"}
{"phase":"Pending","node":null}
{"is_running": true}
{"done": false, "name": "operations/1"}
{'completed': False}
12% complete
{"progress": "35%"}
The export is still running.
Job 17 is in progress, started at 10:02.
The build for main has been queued.
Job j1: in_progress
job-42 -> running
Your report is being generated.
Build #12 is still building, 3 of 9 steps done.
The results are not ready.
The video isn't ready yet
It is still processing.
Data import still running; check back in a minute.
{"StackName": "a", "StackStatus": "CREATE_IN_PROGRESS"}
{"run_id": 1, "life_cycle_state": "RUNNING"}
{"deployment_status":"in_progress","id":3}
<status>running</status>
web-7d 0/1 ContainerCreating 0
web 0/3 Pending
Waiting for deployment "web" rollout to finish: 1 of 3 updated replicas are available...
No result yet.
The record was not found yet
DNS has not propagated yet
Still working on it...
The page is loading...
Please wait, generating your report
HTTP 202 Accepted
checks are still running
{"id": "pi_1", "object": "payment_intent", "status": "requires_action"}
status: requires_payment_method
{"id": "cs_1", "status": "open", "payment_status": "unpaid"}
{"error": "authorization_pending"}
{"progress": 0.4}
{"percent_complete": 40}
42% [======>      ]
Health: Progressing
Der Auftrag läuft noch.
wird bearbeitet
Die Datei ist noch nicht fertig.
En cours
en attente de traitement
en proceso
任务处理中
処理中です
"""

SAYS = """
Getting started with Acme: contact sales.
It is still raining in Berlin.
Best running shoes of 2024: Nike, Asics.
Running shoes
404. We are building something new.
Contact sales.
started in 1998
The company was started in 1998 and is still owned by the family.
Order o1 is on its way
status: done
There are no comments on it yet.
Invoice 7: unpaid
Unpaid leave is granted by the board.
The job requires action from candidates.
Authorization is not needed.
{"progress": 1.0}
{"progress": 100}
Please come in and wait
Waiters for weddings
3/5 stars
{"status": "failed"}
{"status": "succeeded", "started": "2026-11-21"}
{"is_running": false}
{"done": true}
100% complete
50 % off all shoes
progress: 100%
The job is finished.
The loading dock is behind the building.
She is waiting for a reply from the board.
Pending legislation on data centers
The train is running late
Creating value for customers
Kurs: Laufen für Anfänger
le cours de tennis
Fertig.
完成
"""


def lines(text: str) -> list[str]:
    return text.strip().splitlines()


@pytest.mark.parametrize("answer", lines(WAITS))
def test_it_waits(answer: str) -> None:
    assert is_pending(answer)
    assert is_pending([{"type": "text", "text": answer}])
    assert read_tool_output(ToolMessage(answer, tool_call_id="c")).pending
    assert read_tool_output(ToolMessage([{"type": "text", "text": answer}], tool_call_id="c")).pending
    assert not is_pending(f"{answer} " + "and so on " * 60)


@pytest.mark.parametrize("answer", lines(SAYS))
def test_it_says_something_else(answer: str) -> None:
    assert not is_pending(answer)
    assert not is_pending([{"type": "text", "text": answer}])


@pytest.mark.parametrize("answer", ["", None, 7, {}, [], [{"type": "image", "url": "running"}], ["running"] * 5])
def test_what_is_no_short_text(answer: object) -> None:
    assert not is_pending(answer)


@pytest.mark.parametrize(
    ("told", "waits"),
    [
        ({"id": 7, "status": "in_progress"}, True),
        ({"id": 7, "buildStatus": "IN_PROGRESS", "conclusion": None}, True),
        ({"id": 7, "status": "completed", "note": "status: running"}, False),
        ({"id": 7, "jobs": [{"status": "in_progress"}]}, False),  # one of many things it tells
        ({"id": 7, "status": "in progress with style"}, False),
    ],
)
def test_an_object_with_much_to_say(told: dict[str, object], waits: bool) -> None:
    assert is_pending(json.dumps({"urls": ["https://x.example/" + "x" * 60] * 12, **told})) == waits
    assert not is_pending(json.dumps({**told, "urls": ["https://x.example/" + "x" * 60] * 200}))
    assert not is_pending(json.dumps([{"urls": ["x" * 60] * 12, **told}]))
    assert not is_pending(json.dumps({"urls": ["x" * 60] * 12, **told})[:-1])
