"""What an importer of your own must keep to."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ts_langchain.history import Import
from ts_langchain.ledger import Ledger
from ts_langchain.report.summary import summarise

if TYPE_CHECKING:
    from collections.abc import Callable

    from ts_langchain.history import Progress, Source

MAX_POSITION_BYTES = 2_000
RESTARTS = 20


def check_importer(make: Callable[[], Source]) -> None:
    """Checks that an importer behaves as importers must.

    Its pages come in order of time, each row once; each position is small JSON from which a new importer goes on with
    the same rows; and an import that is stopped after each page and taken up again gives the same report as one that
    was not.

    Args:
        make: Makes the importer anew, over a history that does not change: some hundred rows on a few pages.

    Raises:
        AssertionError: It does not; the message says in what.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ts_importers.files import FileImporter
        >>> path = Path(tempfile.mkdtemp()) / "talks.jsonl"
        >>> hello = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
        >>> _ = path.write_text(json.dumps({"messages": hello}))
        >>> check_importer(lambda: FileImporter(path))
    """
    first = make()
    for name, kind in (("source", str), ("scope", str), ("notices", list)):
        value = getattr(first, name, None)
        assert isinstance(value, kind), f"{name} is {value!r}, not a {kind.__name__}"
    assert first.total is None or first.total >= 0, f"total is {first.total!r}, neither None nor a number of rows"
    assert make().scope == first.scope, "scope changes from one importer of the same history to the next"
    for label, text in first.describe().items():
        assert isinstance(label, str) and isinstance(text, str), f"describe() says {label!r}: {text!r}, not text"  # noqa: PT018

    pages = list(first.pages())
    rows = [run for page in pages for run in page.runs]
    assert rows, "there are no rows in it: nothing can be checked"
    order = [(run.started_at, run.id) for run in rows]
    early = next((i for i in range(1, len(order)) if order[i][0] < order[i - 1][0]), None)
    assert early is None, f"row {order[early or 0][1]} began before the row that came before it"
    seen: set[str] = set()
    for run in rows:
        assert run.id, "a row has no id"
        assert run.id not in seen, f"row {run.id} comes twice"
        assert run.ended_at >= run.started_at, f"row {run.id} ends before it begins"
        seen.add(run.id)

    named = [(skipped.where, skipped.why) for page in pages for skipped in page.skipped]
    for number, page in enumerate(pages):
        stored = json.dumps(dict(page.position))
        assert len(stored) <= MAX_POSITION_BYTES, f"the position of page {number} is {len(stored):,} bytes long"
        rest = list(make().pages(json.loads(stored)))
        expected = [run.id for later in pages[number:] for run in later.runs]
        got = [run.id for later in rest for run in later.runs]
        assert got == expected, f"from the position of page {number} on other rows come than before"
    assert [(s.where, s.why) for page in make().pages() for s in page.skipped] == named, (
        "rows that cannot be read are named differently the second time"
    )

    whole, resumed = _reported(make), _reported(make, stop_after=1)
    differ = {name: (value, resumed[name]) for name, value in whole.items() if resumed[name] != value}
    assert not differ, f"stopped and taken up again it gives another result (whole, resumed): {differ}"


def _reported(make: Callable[[], Source], stop_after: int | None = None) -> dict[str, Any]:
    """The report of an import; with `stop_after` it is stopped after so many pages, again and again."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger.sqlite")
        try:
            for attempt in range(RESTARTS):
                run = Import(make(), ledger)

                def stop(done: Progress, run: Import = run, last: bool = attempt == RESTARTS - 1) -> None:
                    if stop_after is not None and done.pages >= stop_after and not last:
                        run.stop()

                history = run.run(stop)
                if history.done:
                    break
            return summarise(ledger, history).as_dict()
        finally:
            ledger.close()
