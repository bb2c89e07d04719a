"""Exports in an object store, read by DuckDB with its own extension over loopback.

DuckDB fetches the extension from the internet, so these tests run where `TS_LANGCHAIN_TEST_HTTPFS` names a folder with
packages that hold both; `.ci/run` makes one. Each import is a process of its own, with that DuckDB and an empty home.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from importers.test_parquet import LANGFUSE, ROWS, export
from servers.s3 import S3, object_store
from servers.serving import OPENSSL, own_certificate

from ts_importers.object_store import failure, is_address, without_secrets
from ts_importers.retrying import MayPass
from ts_langchain.errors import AuthenticationFailed, ConfigurationError, SourceUnavailable, UnreadableSource

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGES = os.environ.get("TS_LANGCHAIN_TEST_HTTPFS", "")
with_httpfs = pytest.mark.skipif(not PACKAGES, reason="TS_LANGCHAIN_TEST_HTTPFS names no DuckDB with its extension")
SECRET = "s3cr3t/of+the-bucket"
IMPATIENT = """
import sys
from ts_importers import retrying
retrying.LONGEST_BACKOFF = 0.05
from ts_langchain.cli import main
main()
"""
Run = "Callable[..., subprocess.CompletedProcess[str]]"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which the extension is installed."""
    home = tmp_path_factory.mktemp("home")
    [extension] = Path(PACKAGES).rglob("httpfs.duckdb_extension")
    code = f"import duckdb; duckdb.connect().execute(\"INSTALL '{extension}'\")"
    subprocess.run([sys.executable, "-c", code], env={"HOME": str(home), "PYTHONPATH": PACKAGES}, check=True)
    return home


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    folder = tmp_path_factory.mktemp("bucket")
    export(folder / "langsmith", ROWS, parts=5)
    shutil.copytree(LANGFUSE, folder / "prefix")
    with object_store(S3(folder)) as bucket:
        yield bucket


@pytest.fixture
def run(home: Path, bucket: S3, tmp_path: Path) -> Run:
    """Runs `ts-langchain import parquet`."""
    bucket.spoil, bucket.faults, bucket.seen = 0, [], []

    def run(address: str, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
        given = {
            "HOME": str(home),
            "PYTHONPATH": PACKAGES,
            "AWS_ACCESS_KEY_ID": bucket.key_id,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{bucket.port}",
            "TS_LANGCHAIN_LEDGER": str(tmp_path / "l.sqlite"),
            "COLUMNS": "1000",
        }
        done = subprocess.run(
            [sys.executable, "-c", IMPATIENT, "import", "parquet", address, *options],
            env={name: value for name, value in (given | env).items() if value},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert SECRET not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@with_httpfs
def test_a_store_at_its_worst_gives_what_a_folder_gives(run: Run, bucket: S3, tmp_path: Path) -> None:
    folder = run(str(bucket.folder / "langsmith"), "--json", TS_LANGCHAIN_LEDGER=str(tmp_path / "other.sqlite"))
    assert folder.returncode == 0, folder.stderr
    bucket.faults, bucket.spoil = ["busy"] * 5 + ["hung_up"] * 5 + ["broken_off"] * 5, 30
    done = run("s3://bucket/langsmith", "--json")
    assert done.returncode == 0, done.stderr
    assert "Waiting" in done.stderr
    assert "HTTP 503" in done.stderr
    found, expected = json.loads(done.stdout), json.loads(folder.stdout)
    assert found.pop("scope") == "s3://bucket/langsmith"
    expected.pop("scope")
    assert found == expected
    again = run("s3://bucket/langsmith", "--since", "last", "--json")
    known = json.loads(again.stdout)
    assert {k: known[k] for k in ("calls", "spend_usd", "rules")} == {
        k: expected[k] for k in ("calls", "spend_usd", "rules")
    }
    assert "known already" in again.stderr


@with_httpfs
@pytest.mark.parametrize("part", ["enriched", "legacy"])
def test_langfuses_exports(run: Run, bucket: S3, tmp_path: Path, part: str) -> None:
    folder = run(str(bucket.folder / "prefix" / part), "--json", TS_LANGCHAIN_LEDGER=str(tmp_path / "other.sqlite"))
    done = run(f"s3://bucket/prefix/{part}/", "--json")
    assert done.returncode == 0, done.stderr
    found, expected = json.loads(done.stdout), json.loads(folder.stdout)
    assert {**found, "scope": None} == {**expected, "scope": None}
    assert found["calls"] == 45
    assert found["sessions"] == 4
    read = {name.split("/")[-2] for method, name in bucket.seen if method == "GET" and name.endswith(".parquet")}
    assert read == ({"observations_v2"} if part == "enriched" else {"observations", "traces"})


@with_httpfs
def test_what_is_refused_or_missing_is_told_at_once(run: Run, bucket: S3) -> None:
    for address, env, code, said in (
        ("s3://bucket/langsmith", {"AWS_ACCESS_KEY_ID": "AKIAOTHER"}, 3, "refused (HTTP 403). Keys are read from AWS_"),
        ("s3://bucket/langsmith", {"AWS_ACCESS_KEY_ID": ""}, 3, "refused (HTTP 403)"),
        ("s3://another/langsmith", {}, 1, "there is no such bucket or file (HTTP 404)"),
        ("s3://bucket/nothing", {}, 1, "No files found in s3://bucket/nothing"),
        ("s3://bucket/nothing.parquet", {}, 1, "there is no such bucket or file (HTTP 404)"),
        ("s3://bucket/langsmith", {"SSL_CERT_FILE": "/no/such.pem"}, 2, "SSL_CERT_FILE names no file"),
        ("r2://bucket/langsmith", {"AWS_ENDPOINT_URL": ""}, 2, "AWS_ENDPOINT_URL"),
        ("az://container/export", {}, 2, "az://… is not read"),
    ):
        done = run(address, **env)
        assert done.returncode == code, (address, env, done.stderr)
        assert said in done.stderr
        assert "Waiting" not in done.stderr


@with_httpfs
def test_a_public_store_needs_no_keys(run: Run, bucket: S3) -> None:
    with object_store(S3(bucket.folder, key_id="")) as public:
        place = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{public.port}", "AWS_ACCESS_KEY_ID": ""}
        done = run("s3://bucket/langsmith", "--dry-run", **place)
        assert done.returncode == 0, done.stderr


@with_httpfs
def test_a_store_that_is_down_is_asked_again_and_told(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    done = run("s3://bucket/langsmith", AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}")
    assert done.returncode == 4
    assert "could not be read: Could not connect to server, after 8 attempts. What was imported is kept" in done.stderr
    assert done.stderr.count("Waiting") == 7


@with_httpfs
def test_the_proxy_of_the_environment(run: Run, bucket: S3) -> None:
    """It is asked for everything, and its password shows nowhere."""
    proxy = {"HTTP_PROXY": f"http://ada:hunter2@127.0.0.1:{bucket.port}", "AWS_ENDPOINT_URL": "http://store.example"}
    done = run("s3://bucket/langsmith", "--dry-run", **proxy)
    assert done.returncode == 0, done.stderr
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for url in (f"http://ada:hunter2@127.0.0.1:{port}", "http://ada:hunter2@127.0.0.1:port"):
        done = run("s3://bucket/langsmith", **{**proxy, "HTTP_PROXY": url})
        assert done.returncode in (2, 4)
        assert "hunter2" not in done.stderr
    direct = run("s3://bucket/langsmith", "--dry-run", HTTPS_PROXY=f"http://ada:hunter2@127.0.0.1:{port}")
    assert direct.returncode == 0, "a proxy for https is none for http"


@with_httpfs
@pytest.mark.skipif(OPENSSL is None, reason="no openssl on this machine to make a certificate with")
def test_certificates_of_ones_own(run: Run, bucket: S3, tmp_path: Path) -> None:
    tls, certificate = own_certificate(tmp_path)
    with object_store(S3(bucket.folder), tls) as safe:
        place = {"AWS_ENDPOINT_URL": f"https://localhost:{safe.port}", "NO_PROXY": "localhost"}
        done = run("s3://bucket/langsmith", "--dry-run", **place)
        assert done.returncode == 4
        assert "certificate is not trusted" in done.stderr
        assert "Waiting" not in done.stderr, "it would not become better"
        for name in ("SSL_CERT_FILE", "AWS_CA_BUNDLE"):
            done = run("s3://bucket/langsmith", "--dry-run", **place, **{name: str(certificate)})
            assert done.returncode == 0, done.stderr


def test_addresses() -> None:
    assert is_address("s3://bucket/export")
    assert not is_address("exports/2026")
    assert not is_address("C://exports") or os.name != "nt"
    with pytest.raises(ConfigurationError, match=r"gopher://… is not read: addresses begin with s3://"):
        is_address("gopher://user:pass@host/export")


def test_a_signed_address_keeps_its_key_to_itself() -> None:
    signed = "https://user:pass@store.example.com/a/b.parquet?X-Amz-Signature=secret"
    assert without_secrets(signed) == "https://store.example.com/a/b.parquet"
    assert without_secrets("s3://bucket/export") == "s3://bucket/export"
    assert without_secrets("s3://bucket/a.parquet?s3_secret_access_key=k/&s=1") == "s3://bucket/a.parquet"
    assert without_secrets("s3://bucket/run-?.parquet") == "s3://bucket/run-?.parquet"


class _Failed(Exception):
    """As DuckDB raises them."""

    def __init__(self, said: str, status: int | None = None, headers: Any = None) -> None:
        super().__init__(said)
        if status is not None:
            self.status_code, self.headers = status, headers


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (_Failed("HTTP Error: x", 403), AuthenticationFailed, "HTTP 403"),
        (_Failed("HTTP Error: x", 404), UnreadableSource, "no such file"),
        (_Failed("HTTP Error: x 'https://h/a.parquet?sig=k3y'", 400), SourceUnavailable, "'https://h/a.parquet'"),
        (_Failed("HTTP Error: x", 501), SourceUnavailable, "cannot be read"),
        (_Failed("HTTP Error: x (HTTP 0)", 0), SourceUnavailable, "may have expired"),  # DuckDB's of some refusals
        (_Failed("HTTP Error: x", 500), MayPass, "HTTP 500"),
        (_Failed("HTTP Error: x", 429, {"Retry-After": "7"}), MayPass, "HTTP 429"),
        (_Failed("IO Error: Timeout was reached error for HTTP GET to 'https://h/a'"), MayPass, "Timeout was reached"),
        (_Failed("IO Error: SSL peer certificate or SSH remote key was not OK"), SourceUnavailable, "SSL_CERT_FILE"),
    ],
)
def test_what_a_failure_means(error: Exception, kind: type[Exception], said: str) -> None:
    found = failure(error, "https://user:pass@h/a.parquet?sig=k3y")
    assert type(found) is kind
    assert said in str(found)
    assert "k3y" not in str(found)
    assert "pass" not in str(found)
    if isinstance(found, MayPass):
        assert found.after == (7.0 if said == "HTTP 429" else None)
