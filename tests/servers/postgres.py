"""A real PostgreSQL on a free port, for tests; they are skipped with a plain message where none can be started."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

import pytest

PASSWORD = "s3cret/of:the?owner"
IN_AN_ADDRESS = "s3cret%2Fof%3Athe%3Fowner"
# the options that make it quick: nothing here has to survive a power cut
OPTIONS = ("fsync=off", "listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=50")


def _programs() -> Path | None:
    """Where they are: in the PATH, or where Debian keeps them out of it."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    kept = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: float(p.parts[-3]))
    return kept[-1].parent if kept else None


def _user() -> dict[str, Any]:
    """It refuses to be run by root, who therefore runs it as another."""
    if os.geteuid():
        return {}
    import pwd

    names = {entry.pw_name for entry in pwd.getpwall()}
    name = next(name for name in ("postgres", "nobody") if name in names)
    return {"user": name, "group": pwd.getpwnam(name).pw_gid, "extra_groups": []}


class PostgresServer:
    """A cluster of its own, in a folder of its own. Skips the test that asks for it where there can be none."""

    def __init__(self) -> None:
        pytest.importorskip("psycopg", reason="no psycopg; pip install 'ts-langchain[postgres]'")
        programs = _programs()
        if programs is None or not hasattr(os, "geteuid"):
            pytest.skip("no PostgreSQL on this machine; apt-get install postgresql")
        self._programs = programs
        self._as = _user()
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # pytest's own are closed to other users
        self._data = self._folder / "data"
        secret = self._folder / "password"
        secret.write_text(PASSWORD)
        if self._as:
            for path in (self._folder, secret):
                shutil.chown(path, self._as["user"], self._as["group"])
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._numbers = count()
        how = ["--username=owner", "--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8", "--locale=C"]
        made = subprocess.run(
            [str(programs / "initdb"), *how, "--no-sync", f"--pgdata={self._data}"],
            check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=self._folder, **self._as,
        )  # fmt: skip
        if made.returncode:
            shutil.rmtree(self._folder, ignore_errors=True)
            pytest.skip(f"PostgreSQL could not be set up: {made.stdout}")
        self.start()

    def start(self) -> None:
        options = [f"--{option}" for option in (*OPTIONS, f"port={self.port}")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._programs / "postgres"), "-D", str(self._data), *options],
                stdout=log, stderr=log, cwd=self._folder, **self._as,
            )  # fmt: skip
        import psycopg

        for _ in range(400):
            if self._process.poll() is not None:
                break
            try:
                psycopg.connect(self.address("postgres")).close()
            except psycopg.OperationalError:
                time.sleep(0.05)
            else:
                return
        told = (self._folder / "log").read_text(errors="replace")
        self.close()
        pytest.skip(f"PostgreSQL could not be started: {told}")

    def stop(self, *, at_once: bool = False) -> None:
        """Ends it and all connections, in order or as a crash does."""
        self._process.send_signal(signal.SIGQUIT if at_once else signal.SIGINT)
        self._process.wait()

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def address(self, database: str, user: str = "owner", password: str = IN_AN_ADDRESS) -> str:
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def do(self, *statements: str, database: str = "postgres") -> None:
        """Runs SQL as the owner of everything."""
        import psycopg

        with psycopg.connect(self.address(database), autocommit=True) as db:
            for statement in statements:
                db.execute(statement)

    def new_database(self) -> str:
        """The name of an empty one."""
        name = f"ledger_{next(self._numbers)}"
        self.do(f"CREATE DATABASE {name}")
        return name
