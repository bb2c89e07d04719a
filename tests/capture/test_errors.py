"""What an error says, be it raised or recorded."""

from __future__ import annotations

import pytest

from ts_langchain.capture.errors import is_unavailable, reads_unavailable


class ServerError(Exception):
    """As google-genai raises it."""


@pytest.mark.parametrize(
    ("says", "unavailable"),
    [
        ("503 UNAVAILABLE. {'error': {'status': 'UNAVAILABLE'}}", True),
        ("429 RESOURCE_EXHAUSTED", True),
        ("Request failed with status_code: 503", True),
        ("statusCode=429", True),
        ("failed, error_code: 502", True),
        ("HTTP/1.1 504", True),
        ("Error code: 429 - slow down", True),
        ("An error occurred (ThrottlingException) when calling Converse", True),
        ("overloaded_error", True),
        ("error on line 502: unexpected token", False),
        ("Error: order 503 not found", False),
        ("Error: room 502 is taken", False),
        ("error: call of overloaded 'f(int)' is ambiguous", False),
        ("generate limit must be a number", False),
    ],
)
def test_who_is_not_there_for_now(says: str, unavailable: bool) -> None:
    """The same of what is raised, what LangChain's tracer recorded, and what Langfuse says without a name."""
    error = ServerError(says)
    recorded = f"{error!r}Traceback (most recent call last):\n\n  File ...\n\nServerError: {says}\n"
    assert is_unavailable(error) == is_unavailable(recorded) == is_unavailable(says) == unavailable
    assert reads_unavailable(says) == unavailable
