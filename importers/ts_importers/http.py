"""JSON over HTTP that does not give up at the first hiccup, and never tells a secret."""

from __future__ import annotations

import logging
import ssl
import threading
import time
import zlib
from typing import TYPE_CHECKING, Any

import httpx2
import orjson
import tenacity

from ts_importers.retrying import ATTEMPTS, LONGEST_RETRY_AFTER, MayPass, retry_after, retrying
from ts_importers.values import loads
from ts_langchain.errors import (
    AuthenticationFailed,
    ConfigurationError,
    ImporterError,
    SourceUnavailable,
    UnreadableSource,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ts_importers.base import OnWait

TIMEOUT = 60.0
WHOLE_TIMEOUTS = 10
"""How many times as long as the first byte of an answer its last one may take."""
MOST_BYTES = 128 * 1024 * 1024
"""Of an answer, packed or not: pages are asked for in 2 MB, and no service takes rows of much more than 20 MB."""
PIECE = 1024 * 1024
PACKED = frozenset({"gzip", "x-gzip", "deflate"})
ZLIB_OR_GZIP = zlib.MAX_WBITS | 32
DETAIL_CHARS = 200
PASSING = frozenset({408, 425, 429})
FAILED_TO_READ = ("read", "What was imported is kept; run the same command later to go on.")
FAILED_TO_WRITE = ("written to", "What was sent is recorded; run the same command later to go on.")


class _WithoutQuery(logging.Filter):
    """httpx logs addresses; what stands behind the `?` may be a signature."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(a.copy_with(query=None) if isinstance(a, httpx2.URL) else a for a in record.args)
        return True


logging.getLogger("httpx2").addFilter(_WithoutQuery())


class HTTPFailure(ImporterError):
    """The server refused a request in a way that trying again does not mend.

    Attributes:
        status: HTTP status.
    """

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


class TooLarge(ImporterError):
    """An answer was larger than any is that makes sense, or unpacked to more."""


class Client:
    """JSON requests to one service, retried with tenacity.

    May be used from several threads. While one of them waits for the service, the others do not ask it either.

    Tried again: 429 (after `Retry-After` as seconds or date, else jittered exponential back-off), 408, 425, 5xx but
    501, connection errors, time-outs, and bodies that are cut off or cannot be unpacked. Never: 401, 403 and other 4xx,
    redirects, web pages where JSON is expected, answers of more than 128 MB, packed or unpacked. Proxies and own
    certificates come from the environment (`HTTPS_PROXY`, `SSL_CERT_FILE`).

    Args:
        base_url: Address of the service: `http://` or `https://`, without a user or password in it.
        headers: Sent with each request; the place for the key. No value of them ever shows in a message.
        service: The service's name, for messages.
        key_hint: What to do about a refused key.
        on_wait: Told of each wait.
        sleep: Waits; for tests.
        attempts: How often a request is sent at most.
        timeout: Seconds without an answer until a request counts as failed; a whole answer may take ten times as long.
        most_bytes: How large an answer may be, unpacked; changeable, as `most_bytes`.
        address_hint: What to do about a wrong address.
        secrets: What else must never show in a message: a key that a header holds encoded.
        pace: Seconds between two requests at least; changeable, as `pace`.
        failed: What could not be done when a request keeps failing, and what to do then.

    Raises:
        ConfigurationError: The address is none, or a header holds what no header can hold.
    """

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str],
        *,
        service: str,
        key_hint: str,
        on_wait: OnWait | None = None,
        sleep: Callable[[float], None] = time.sleep,
        attempts: int = ATTEMPTS,
        timeout: float = TIMEOUT,
        most_bytes: int = MOST_BYTES,
        address_hint: str = "Check the address.",
        secrets: Sequence[str] = (),
        pace: float = 0.0,
        failed: tuple[str, str] = FAILED_TO_READ,
    ) -> None:
        self.service = service
        self.host = _host(base_url, service, address_hint)
        self._key_hint = key_hint
        self.address_hint = address_hint
        self._failed = failed
        self._patience = timeout * WHOLE_TIMEOUTS
        self.most_bytes = most_bytes
        sent = {name: value.strip() for name, value in headers.items()}
        if not all(value.isascii() and value.isprintable() for value in sent.values()):
            msg = (
                f"the key for {service} holds characters that no key has (a line break, a quotation mark?). {key_hint}"
            )
            raise ConfigurationError(msg)
        self._secrets = [value for value in (*sent.values(), *secrets) if value]
        try:
            self._client = httpx2.Client(
                base_url=base_url, headers={**sent, "accept-encoding": "gzip, deflate"}, timeout=timeout
            )
        except (OSError, ValueError, httpx2.InvalidURL) as error:
            msg = (
                "the proxy or the certificates that the environment names (HTTPS_PROXY, HTTP_PROXY, SSL_CERT_FILE, "
                f"SSL_CERT_DIR) cannot be used: {type(error).__name__}"
            )
            raise ConfigurationError(msg) from None
        self._answered = threading.local()
        self._given_up = threading.Event()
        self.pace = pace
        self._sleep: Callable[[float], object] = self._given_up.wait if sleep is time.sleep else sleep
        self._turns = threading.Lock()
        self._next_at = 0.0
        self._napping = 0
        self._clear = threading.Event()
        self._clear.set()

        def nap(seconds: float) -> None:
            with self._turns:
                self._napping += 1
                self._clear.clear()
            try:
                self._sleep(seconds)
            finally:
                with self._turns:
                    self._napping -= 1
                    if not self._napping:
                        self._clear.set()

        self._retrying = retrying(
            service,
            on_wait=on_wait,
            sleep=nap,
            attempts=attempts,
            unless=tenacity.stop_when_event_set(self._given_up),
        )

    def __repr__(self) -> str:
        return f"Client({self.service} at {self.host})"

    @property
    def answer_bytes(self) -> int:
        """Length of the last answer that this thread got, unpacked; 0 before the first."""
        return getattr(self._answered, "bytes", 0)

    def close(self) -> None:
        """Closes all connections."""
        self._client.close()

    def begin(self) -> None:
        """Lets requests be sent again after `give_up`."""
        self._given_up.clear()

    def give_up(self) -> None:
        """Ends what other threads wait for. Requests under way come to their end, no further ones are sent."""
        self._given_up.set()
        self._clear.set()

    def _take_turn(self) -> None:
        """Waits until a request may be sent: another thread may be waiting for the service, or the pace asks for it."""
        self._clear.wait(LONGEST_RETRY_AFTER)
        if self.pace:
            with self._turns:
                now = time.monotonic()
                at = self._next_at = max(now, self._next_at + self.pace)
            if at > now:
                self._sleep(at - now)
        if self._given_up.is_set():
            msg = f"{self.service} is no longer asked: the import has ended"
            raise SourceUnavailable(msg)

    def get(self, path: str, params: Mapping[str, str | int] | None = None) -> Any:
        """The JSON that a GET answers with.

        Raises:
            AuthenticationFailed: 401 or 403.
            HTTPFailure: Any other refusal.
            SourceUnavailable: It kept failing.
            TooLarge: The answer is larger than any that makes sense.
        """
        return self._send("GET", path, params=dict(params or {}))

    def post(
        self,
        path: str,
        body: object,
        *,
        params: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """The JSON that a POST answers with. Raises as `get` does.

        Tried again like any other request: what is sent must be the same if it comes twice.
        """
        return self._send_json("POST", path, body, params=dict(params or {}), headers=dict(headers or {}))

    def patch(self, path: str, body: object) -> Any:
        """The JSON that a PATCH answers with, None if it says nothing. Raises as `get` does."""
        return self._send_json("PATCH", path, body)

    def delete(self, path: str) -> Any:
        """The JSON that a DELETE answers with, None if it says nothing. Raises as `get` does."""
        return self._send("DELETE", path)

    def _send_json(self, method: str, path: str, body: object, **kwargs: Any) -> Any:
        headers = {**kwargs.pop("headers", {}), "content-type": "application/json"}
        return self._send(method, path, content=orjson.dumps(body), headers=headers, **kwargs)

    def _send(self, method: str, path: str, **kwargs: Any) -> Any:
        try:
            return self._retrying(self._once, method, path, **kwargs)
        except MayPass as last:
            what, then = self._failed
            msg = (
                f"{self.service} at {self.host} could not be {what}: {last.reason}, after "
                f"{self._retrying.statistics.get('attempt_number', 1)} attempts. {then}"
            )
            raise SourceUnavailable(msg) from None

    def _once(self, method: str, path: str, **kwargs: Any) -> Any:
        self._take_turn()
        try:
            with self._client.stream(method, path, **kwargs) as response:
                content = self._content(response)
        except httpx2.TimeoutException:
            raise MayPass("no answer in time") from None
        except httpx2.TransportError as error:
            if _is_about_a_certificate(error):
                msg = (
                    f"the certificate of {self.service} at {self.host} is not trusted. For a certificate authority of "
                    "your own set SSL_CERT_FILE to its certificate."
                )
                raise SourceUnavailable(msg) from None
            raise MayPass(f"no connection ({type(error).__name__})") from None
        except zlib.error:
            raise MayPass("an answer that cannot be unpacked") from None
        except (httpx2.InvalidURL, UnicodeError):
            msg = f"{self.service} names an address that is none"
            raise UnreadableSource(msg) from None
        status = response.status_code
        if status in (401, 403):
            msg = f"{self.service} at {self.host} refused the key (HTTP {status}). {self._key_hint}"
            raise AuthenticationFailed(msg)
        if status in PASSING or (status >= 500 and status != 501):
            raise MayPass(f"HTTP {status}", retry_after(response.headers.get("retry-after")))
        if 300 <= status < 400:
            msg = f"{self.service} at {self.host} answered with a redirect (HTTP {status}). {self.address_hint}"
            raise HTTPFailure(status, msg)
        if status >= 400:
            detail = self._without_secrets(_detail(content))[:DETAIL_CHARS]
            detail = f" ({detail})" if detail else ""
            shown = path.partition("?")[0]  # a query may hold a signature
            msg = f"{self.service} at {self.host} refused {method} {shown}: HTTP {status}{detail}"
            raise HTTPFailure(status, msg)
        if not content and (status in (202, 204) or method in ("PATCH", "DELETE")):
            return None
        self._answered.bytes = len(content)
        try:
            return loads(content)
        except ValueError:
            pass
        if "text/html" in response.headers.get("content-type", ""):
            msg = f"{self.host} answered with a web page instead of data. {self.address_hint}"
            raise HTTPFailure(status, msg)
        raise MayPass("an answer that is no JSON or was cut off")

    def _content(self, response: httpx2.Response) -> bytes:
        """The body of an answer, unpacked. A few bytes may unpack to all there is of memory, or never end."""
        given_up_at = time.monotonic() + self._patience
        named = (name.strip().lower() for name in response.headers.get("content-encoding", "").split(","))
        encoding = ",".join(name for name in named if name != "identity")
        unpack = zlib.decompressobj(ZLIB_OR_GZIP) if encoding in PACKED else None
        content, came = bytearray(), 0
        for piece in filter(None, response.iter_raw()):
            if unpack is not None and not came and encoding == "deflate" and piece[0] & 0xF != zlib.DEFLATED:
                unpack = zlib.decompressobj(-zlib.MAX_WBITS)  # some leave out the header
            came += len(piece)
            rest = piece if unpack is None or not unpack.eof else b""  # zlib would gather what comes after the end
            while rest:
                if unpack is None:
                    content += rest
                    rest = b""
                else:
                    content += unpack.decompress(rest, PIECE)
                    rest = b"" if unpack.eof else unpack.unconsumed_tail
                if len(content) > self.most_bytes:
                    raise TooLarge(self._too_large())
            if came > self.most_bytes:
                raise TooLarge(self._too_large())
            if time.monotonic() > given_up_at:
                raise MayPass("no answer in time")
        if unpack is not None:
            content += unpack.flush()
        return bytes(content)

    def _too_large(self) -> str:
        return (
            f"{self.service} at {self.host} sent an answer of more than {self.most_bytes:,} bytes, packed or unpacked, "
            f"which was not read to its end. {self.address_hint}"
        )

    def _without_secrets(self, text: str) -> str:
        """Some servers quote the key they refuse."""
        for secret in self._secrets:
            text = text.replace(secret, "[key]")
        return text


def _host(base_url: str, service: str, hint: str) -> str:
    """The host of an address, and its port if it is not the usual one. A password is refused without repeating it."""
    try:
        url = httpx2.URL(base_url)
    except (httpx2.InvalidURL, TypeError, ValueError):
        url = None
    if url is None or url.scheme not in ("http", "https") or not url.host or url.userinfo:
        msg = f"the address of {service} must be like https://host, without a user or password in it. {hint}"
        raise ConfigurationError(msg)
    return url.netloc.decode()


def _is_about_a_certificate(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY_FAILED" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _detail(body: bytes) -> str:
    """What the server says of a refusal, if it says it in a short field."""
    try:
        said = orjson.loads(body)
    except ValueError:
        return ""
    detail = said.get("detail") or said.get("message") or said.get("error") if isinstance(said, dict) else None
    return detail if isinstance(detail, str) else ""
