"""What all that write back share."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from ts_langchain.deliver.annotations import NotWritten
from ts_langchain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ts_importers.http import Client, HTTPFailure

T = TypeVar("T")
AT_A_TIME = 4
GONE = NotWritten("it is no longer there", gone=True)


def each(
    work: Callable[[T], NotWritten | None], items: Sequence[T], id_of: Callable[[T], str], client: Client
) -> dict[str, NotWritten]:
    """Does the work for each item, four at a time. Returns the failures by id; what is raised ends it all at once."""
    pool = ThreadPoolExecutor(AT_A_TIME, thread_name_prefix="ts-langchain")
    patient = True
    try:
        results = list(pool.map(work, items))
    except BaseException as error:
        patient = isinstance(error, Exception)  # after Ctrl-C nobody waits for a server that does not answer
        client.give_up()
        raise
    finally:
        pool.shutdown(wait=patient, cancel_futures=True)
    return {id_of(item): failed for item, failed in zip(items, results, strict=True) if failed is not None}


def reason(error: HTTPFailure) -> NotWritten:
    """Why an annotation could not be written, of a refusal that is about this one only."""
    return GONE if error.status == 404 else NotWritten(str(error))


def place_of(client: Client, host: str, variable: str) -> None:
    """Refuses to write what was read from one host to another. Of an export no host is known.

    Raises:
        ConfigurationError: It would be another host.
    """
    if host and client.host != host:
        msg = f"this history came from {host}, not from {client.host}: set {variable} to where it came from"
        raise ConfigurationError(msg)
