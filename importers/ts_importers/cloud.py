"""Events to a TokenSentinel cloud."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ts_importers.http import FAILED_TO_WRITE, Client, HTTPFailure
from ts_langchain.deliver.backfill import Receipt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ts_importers.base import OnWait
    from ts_langchain.deliver.backfill import WasteEvent

SERVICE = "The TokenSentinel cloud"
KEY_HINT = "Check TOKEN_SENTINEL_API_KEY, and that it may write to this project."
ADDRESS_HINT = "Check TOKEN_SENTINEL_ENDPOINT or --endpoint."


class TokenSentinelCloud:
    """Sends events to `/v1/events:backfill`, and to `/v1/events` where the server does not have that.

    Args:
        endpoint: Address of the cloud, with or without `/v1`.
        project: Its project.
        api_key: Key (`tsk_…`); never shown anywhere.
        on_wait: Told of each wait before a retry.
        sleep: Waits; for tests.

    Raises:
        ConfigurationError: The address is none.
    """

    def __init__(
        self,
        *,
        endpoint: str,
        project: str,
        api_key: str,
        on_wait: OnWait | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.project = project
        self._backfill = True
        self._client = Client(
            endpoint.rstrip("/").removesuffix("/v1"),
            {"authorization": f"Bearer {api_key.strip()}"},
            service=SERVICE,
            key_hint=KEY_HINT,
            address_hint=ADDRESS_HINT,
            secrets=[api_key.strip()],
            failed=FAILED_TO_WRITE,
            on_wait=on_wait,
            sleep=sleep,
        )
        self.name = f"{self._client.host}/{project}"

    def send(self, events: Sequence[WasteEvent], key: str) -> Receipt:
        """Sends a chunk, in halves where it is too large for the cloud; an event that is by itself counts as rejected.

        Raises:
            AuthenticationFailed: The key was refused.
            HTTPFailure: The cloud refused the chunk as a whole.
            SourceUnavailable: It kept failing.
        """
        try:
            return self._send(events, key)
        except HTTPFailure as error:
            if error.status != 413:
                raise
        if len(events) == 1:
            return Receipt(0, 1)
        half = len(events) // 2
        first, second = self.send(events[:half], f"{key}.1"), self.send(events[half:], f"{key}.2")
        return Receipt(first.accepted + second.accepted, first.rejected + second.rejected)

    def _send(self, events: Sequence[WasteEvent], key: str) -> Receipt:
        body = {"project": self.project, "events": list(events)}
        headers = {"idempotency-key": key}
        if self._backfill:
            try:
                return _receipt(
                    self._client.post("/v1/events:backfill", body, params={"project": self.project}, headers=headers),
                    len(events),
                )
            except HTTPFailure as error:
                if error.status != 404:
                    raise
                self._backfill = False
        return _receipt(self._client.post("/v1/events", body, headers=headers), len(events))


def _receipt(answer: Any, sent: int) -> Receipt:
    """Counts of an answer; a server that does not count has accepted all."""
    counts = answer if isinstance(answer, dict) else {}
    rejected = counts.get("rejected")
    rejected = rejected if type(rejected) is int and rejected > 0 else 0
    accepted = counts.get("accepted")
    return Receipt(accepted if type(accepted) is int and accepted >= 0 else sent - rejected, rejected)
