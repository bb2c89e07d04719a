"""Object stores, as DuckDB reads them: keys, proxy and certificates of the environment, and what a failure means."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment

from ts_importers.retrying import MayPass, retry_after
from ts_langchain.errors import AuthenticationFailed, ConfigurationError, SourceUnavailable, UnreadableSource

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMES = ("s3://", "s3a://", "gs://", "gcs://", "r2://", "http://", "https://")
WEB = ("http://", "https://")
BUSY = (408, 425, 429)
NOT_MADE = 501
KEYS = "Keys are read from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN."
PLACE = "The region is read from AWS_REGION, another address than Amazon's from AWS_ENDPOINT_URL."
WEB_KEYS = "A signed address may have expired."
CERTIFICATES = ("SSL_CERT_FILE", "AWS_CA_BUNDLE")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_QUOTED = re.compile(r"https?://[^\s'\"]+")


def is_address(path: str) -> bool:
    """True for what DuckDB reads over the network, False for files and folders.

    Raises:
        ConfigurationError: It is an address that is not read.
    """
    if path.startswith(SCHEMES):
        return True
    if found := _ADDRESS.match(path):
        msg = f"{found[0]}… is not read: addresses begin with {', '.join(SCHEMES)}. Copy the export to a folder."
        raise ConfigurationError(msg)
    return False


def without_secrets(address: str) -> str:
    """An address without user, password and query: signed addresses carry a key there, DuckDB takes one there."""
    scheme, _, rest = address.partition("://")
    if not scheme.startswith("http"):  # where a question mark may stand for any character
        plain, _, query = address.partition("?")
        return plain if "=" in query else address
    host, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def reach(db: Any, address: str) -> None:
    """Makes addresses like this one readable, with what the environment says.

    Raises:
        ConfigurationError: The environment names a proxy, certificates or keys that cannot be used.
        SourceUnavailable: DuckDB's extension for it is not there and cannot be loaded.
    """
    import duckdb

    shown, env = without_secrets(address), os.environ
    store = _Store.of(address, env)
    _use_proxy(db, "http" if store.plain else "https")
    try:
        db.execute("INSTALL httpfs")
        db.execute("LOAD httpfs")
    except duckdb.Error as error:
        msg = (
            f"{shown}: DuckDB reads object stores with its extension httpfs, which is not installed and could not "
            f"be fetched ({first_line(error)}). Install it where there is a network (INSTALL httpfs in DuckDB), or "
            "copy the export to a folder."
        )
        raise SourceUnavailable(msg) from error
    _trust_certificates(db, env)
    if not address.startswith(WEB):
        store.give_keys(db, shown, env)


class _Store(NamedTuple):
    """Which kind of store it is, and where.

    Attributes:
        kind: DuckDB's name for it.
        host: Its host, empty for the kind's own.
        plain: True if it is asked without TLS.
    """

    kind: str
    host: str
    plain: bool

    @classmethod
    def of(cls, address: str, env: Mapping[str, str]) -> _Store:
        if address.startswith(WEB):
            return cls("http", "", address.startswith("http://"))
        kind = "gcs" if address.startswith(("gs://", "gcs://")) else "r2" if address.startswith("r2://") else "s3"
        endpoint = env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL") or ""
        scheme, _, host = endpoint.rpartition("://")
        if kind == "r2" and not host:
            msg = "r2:// needs an address: set AWS_ENDPOINT_URL to https://ACCOUNT.r2.cloudflarestorage.com"
            raise ConfigurationError(msg)
        return cls(kind, host.rstrip("/"), scheme == "http")

    def give_keys(self, db: Any, shown: str, env: Mapping[str, str]) -> None:
        """Tells DuckDB where the store is, and its keys: those in the environment, or of the AWS credential chain."""
        import duckdb

        given = {
            "KEY_ID": env.get("AWS_ACCESS_KEY_ID"),
            "SECRET": env.get("AWS_SECRET_ACCESS_KEY"),
            "SESSION_TOKEN": env.get("AWS_SESSION_TOKEN"),
            "REGION": env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION"),
            "ENDPOINT": self.host,
            "URL_STYLE": "path" if self.host else None,
        }
        options = [f"TYPE {self.kind}", *(f"{name} {quoted(value)}" for name, value in given.items() if value)]
        if self.plain:
            options.append("USE_SSL false")
        if not given["KEY_ID"] and self.kind == "s3" and _has_credential_chain(db):
            with suppress(duckdb.Error):  # it may know no keys
                db.execute(f"CREATE SECRET ({', '.join(options)}, PROVIDER credential_chain)")
                return
        try:
            db.execute(f"CREATE SECRET ({', '.join(options)})")
        except duckdb.Error:
            if not given["KEY_ID"]:
                return  # a public bucket needs no keys; a refusal says so
            msg = f"{shown}: DuckDB does not accept what AWS_* in the environment say"
            raise ConfigurationError(msg) from None  # its message would show them


def _has_credential_chain(db: Any) -> bool:
    import duckdb

    try:
        db.execute("INSTALL aws")
        db.execute("LOAD aws")
    except duckdb.Error:
        return False
    return True


def _use_proxy(db: Any, scheme: str) -> None:
    """The proxy for this scheme. DuckDB itself only looks at HTTP_PROXY, for all, and quotes it where it fails."""
    proxies = getproxies_environment()
    found = proxies.get(scheme) or proxies.get("all") or ""
    try:
        proxy = urlsplit(found if "://" in found else f"http://{found}")
        place = f"{proxy.hostname}:{proxy.port or 80}" if proxy.scheme == "http" and proxy.hostname else ""
    except ValueError:
        msg = "the proxy that the environment names (HTTPS_PROXY, HTTP_PROXY) cannot be used"
        raise ConfigurationError(msg) from None
    db.execute(f"SET http_proxy = {quoted(place)}")  # others, like socks5://, are left to what DuckDB is made of
    if place and proxy.username:
        db.execute(f"SET http_proxy_username = {quoted(unquote(proxy.username))}")
        db.execute(f"SET http_proxy_password = {quoted(unquote(proxy.password or ''))}")


def _trust_certificates(db: Any, env: Mapping[str, str]) -> None:
    """Certificates of one's own: DuckDB does not look for them."""
    name = next((name for name in CERTIFICATES if env.get(name)), None)
    if name is None:
        return
    if not Path(env[name]).is_file():
        msg = f"{name} names no file"
        raise ConfigurationError(msg)
    db.execute(f"SET ca_cert_file = {quoted(env[name])}")
    db.execute("SET enable_server_cert_verification = true")


def failure(error: Any, address: str) -> Exception:
    """What a failed query of an address is: `MayPass` if it is worth another try, else what the user is told.

    Args:
        error: DuckDB's.
        address: What was read.
    """
    shown, said = without_secrets(address), _said(error, address)
    web = address.startswith(WEB)
    status = getattr(error, "status_code", None)
    if status in (401, 403):
        return AuthenticationFailed(f"{shown}: refused (HTTP {status}). {WEB_KEYS if web else KEYS}")
    if status == 404:
        return UnreadableSource(f"{shown}: there is no such {'file' if web else 'bucket or file'} (HTTP 404)")
    if status is not None:
        if status in BUSY or (status >= 500 and status != NOT_MADE):
            return MayPass(f"HTTP {status}", retry_after(_header(error, "retry-after")))
        return SourceUnavailable(f"{shown} cannot be read: {said}. {WEB_KEYS if web else PLACE}")
    if "No files found" in said:
        return UnreadableSource(f"No files found in {shown} whose names end with .parquet")
    if "SSL" in said or "certificate" in said.lower():
        return SourceUnavailable(
            f"{shown}: the certificate is not trusted ({said}). For a certificate authority of your own set "
            "SSL_CERT_FILE to its certificate."
        )
    return MayPass(said.partition(" error for HTTP")[0].removeprefix("IO Error: "))


def _header(error: Any, name: str) -> str | None:
    headers = getattr(error, "headers", None)
    found = {str(k).lower(): v for k, v in headers.items()} if isinstance(headers, dict) else {}
    value = found.get(name)
    return value if isinstance(value, str) else None


def _said(error: Exception, address: str) -> str:
    """The error's first line, addresses in it without secrets."""
    line = first_line(error).replace(address, without_secrets(address))
    return _QUOTED.sub(lambda found: without_secrets(found[0]), line)


def first_line(error: Exception) -> str:
    """What an error of DuckDB says before it shows the query."""
    return str(error).partition("\n")[0][:300]


def quoted(value: str) -> str:
    """A text in SQL."""
    return "'" + value.replace("'", "''") + "'"
