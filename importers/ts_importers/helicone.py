"""History from Helicone: requests by windows of time, their bodies from where `signed_body_url` points.

Offsets shift while rows come and go, so they are only used among rows of one time. Tools are not recorded: their calls
are read out of the prompts.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import httpx2

from ts_importers.helicone_rows import run_from_request
from ts_importers.http import Client
from ts_importers.values import timestamp
from ts_importers.windows import PageSize, WindowWalk, rows_of
from ts_langchain.errors import ImporterError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ts_importers.base import OnWait, Skipped
    from ts_langchain.replay import Run

SERVICE = "Helicone"
KEY_HINT = "Check HELICONE_API_KEY (Settings, API keys); EU keys need HELICONE_BASE_URL=https://eu.api.helicone.ai."
ADDRESS_HINT = "Check HELICONE_BASE_URL: https://api.helicone.ai, or your own server's API."
PAGE_SIZE = 100
BODIES_AT_ONCE = 8


class HeliconeImporter(WindowWalk):
    """Reads the requests of one organisation; the key says which.

    Helicone tells a key nothing of its organisation, so a short fingerprint of the key stands for it in the scope:
    another key is another history.

    Args:
        api_key: Key; never shown anywhere, and only sent to the API, not to where bodies lie.
        since: Start of the range, inclusive; 30 days before its end if None.
        until: End of the range, exclusive; now if None or later.
        endpoint: Address of the API.
        page_size: Rows per request, 1 to 100.
        limit: Stop after about so many rows.
        on_wait: Told of each wait before a retry.
        sleep: Waits; for tests.

    Raises:
        AuthenticationFailed: The key was refused.
        SourceUnavailable: Helicone could not be reached.
        ConfigurationError: The range is empty.
    """

    source = "helicone"
    start_field = "request_created_at"
    id_field = "request_id"
    at_once = 2

    def __init__(
        self,
        *,
        api_key: str,
        since: datetime | None = None,
        until: datetime | None = None,
        endpoint: str = "https://api.helicone.ai",
        page_size: int = PAGE_SIZE,
        limit: int | None = None,
        on_wait: OnWait | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(since, until, limit, PageSize(page_size))
        key = api_key.strip()
        common: dict[str, Any] = {
            "key_hint": KEY_HINT,
            "address_hint": ADDRESS_HINT,
            "on_wait": on_wait,
            "sleep": sleep,
        }
        base = endpoint.rstrip("/").removesuffix("/v1")
        headers = {"authorization": f"Bearer {key}"}
        self._plainly = base.lower().startswith("http://")
        self._client = Client(base, headers, service=SERVICE, secrets=[key], **common)
        self._bodies = Client(base, {}, service=f"{SERVICE} bodies", **common)
        self._pool = ThreadPoolExecutor(BODIES_AT_ONCE, thread_name_prefix="ts-langchain bodies")
        self.scope = f"{self._client.host}/key-{sha256(key.encode()).hexdigest()[:8]}"
        self._query(self.since, self.since, None, self.page_size.rows)  # a wrong key or address is told at once

    def describe(self) -> Mapping[str, str]:
        """What is imported, for people."""
        return {"Helicone": self.scope}

    def _clients(self) -> Sequence[Client]:
        return (self._client, self._bodies)

    def _run(self, row: dict[str, Any]) -> Run | Skipped | None:
        return run_from_request(row)

    def _query(self, start: datetime, end: datetime, cursor: str | None, rows: int) -> tuple[list[Any], str | None]:
        since, _, offset = (cursor or start.isoformat()).partition(" ")
        skipped = int(offset or 0)
        body = {
            "filter": {
                "left": {"request": {"created_at": {"gte": since}}},
                "operator": "and",
                "right": {"request": {"created_at": {"lt": end.isoformat()}}},
            },
            "offset": skipped,
            "limit": rows,
            "sort": {"created_at": "asc"},
        }
        answer = self._client.post("/v1/request/query", body)
        requests = list(self._pool.map(self._with_bodies, rows_of(answer, self._client, "data")))
        if len(requests) < rows:
            return requests, None
        # from the last one on: rows of one time are in no order, and offsets shift when rows come and go
        times = [at for r in requests if isinstance(r, dict) and (at := timestamp(r.get(self.start_field))) is not None]
        last = max(times, default=0.0)
        if last > (timestamp(since) or 0.0):
            return requests, f"{datetime.fromtimestamp(last, tz=UTC).isoformat()} 0"
        return requests, f"{since} {skipped + rows}"

    def _with_bodies(self, row: Any) -> Any:
        """The row with its bodies; without them if they are gone (they are kept for a limited time)."""
        if not isinstance(row, dict):
            return row
        url = row.get("signed_body_url")
        if not isinstance(url, str) or not url:
            return row
        if not _may_be_asked(url, plainly=self._plainly):
            self._note("some bodies could not be read: their addresses are not asked, being link-local or not https://")
            return row
        try:
            bodies = self._bodies.get(url)
        except ImporterError:
            bodies = None
        if not isinstance(bodies, dict):
            self._note("some bodies could not be read: their requests count by the tokens Helicone reports")
            return row
        filled = {"request_body": bodies.get("request"), "response_body": bodies.get("response")}
        return {**row, **{k: v for k, v in filled.items() if v is not None}}

    def _note(self, notice: str) -> None:
        if notice not in self.notices:
            self.notices.append(notice)


def _may_be_asked(url: str, *, plainly: bool) -> bool:
    """False for an address that no store of bodies has, and that somebody may have put there to have it asked.

    Unencrypted, which services inside a network are, only the API's own network is asked, and never its machines' own
    service of keys, which lies at a link-local address.
    """
    try:
        parts = httpx2.URL(url)
    except (httpx2.InvalidURL, UnicodeError):
        return True  # it is not asked either, and told of
    if parts.scheme != "https" and not (parts.scheme == "http" and plainly):
        return False
    try:
        address = ipaddress.ip_address(parts.host.partition("%")[0])
        address = getattr(address, "ipv4_mapped", None) or address
    except ValueError:
        try:
            address = ipaddress.ip_address(socket.inet_aton(parts.host))  # 0xa9fea9fe is one, too
        except (OSError, UnicodeError):
            return True
    return not address.is_link_local
