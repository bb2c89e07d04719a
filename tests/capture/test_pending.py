"""Which answers say that something is still under way."""

from __future__ import annotations

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
