"""A broker, and a database of each kind: SQLite, and PostgreSQL where its server is installed."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from corgi.client.loop_thread import LoopThread
from corgi.testing.embedded import Broker


@pytest.fixture(scope="module")
def servers() -> Iterator[str]:
    thread = LoopThread()
    broker = Broker()
    try:
        thread.call(broker.start)
        yield broker.servers
        thread.call(broker.stop)
    finally:
        thread.close()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A topic's name that no other test uses."""
    return "".join(c if c.isalnum() else "-" for c in request.node.name)


def postgres_program(name: str) -> str | None:
    """Debian keeps some of them beside the one that is on the path."""
    server = shutil.which("postgres")
    return None if server is None else shutil.which(name, path=str(Path(server).resolve().parent))


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a server of its own; as root it runs as the user postgres, for it refuses root."""
    initdb, server = postgres_program("initdb"), postgres_program("postgres")
    if initdb is None or server is None:
        pytest.skip("PostgreSQL's server is not installed")
    folder = Path(tempfile.mkdtemp(prefix="corgi-postgres-"))  # pytest's own folders are closed to other users
    try:
        yield from _postgres(folder, initdb, server)
    finally:
        shutil.rmtree(folder)


def _postgres(folder: Path, initdb: str, server: str) -> Iterator[str]:
    user = None
    if os.geteuid() == 0:
        user = "postgres"
        try:
            account = pwd.getpwnam(user)
        except KeyError:
            pytest.skip("PostgreSQL refuses root, and there is no user postgres")
        os.chown(folder, account.pw_uid, account.pw_gid)
    data, sockets = folder / "data", folder
    subprocess.run(
        [initdb, "--pgdata", data, "--username", "corgi", "--auth", "trust", "--no-sync", "--encoding", "UTF8"],
        check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [server, "-D", data, "-p", str(port), "-k", sockets, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"],
        user=user, cwd=folder, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "ready to accept connections" in line:
                break
        else:
            pytest.fail(f"PostgreSQL ended with {process.wait()}")
        yield f"postgresql+psycopg://corgi@127.0.0.1:{port}/postgres"
    finally:
        process.terminate()
        process.communicate(timeout=30)


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    """An empty database with a table ``results``, which takes every result as often as it comes."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/database.sqlite"
    else:
        url = request.getfixturevalue("postgres")
    made = sa.create_engine(url)
    metadata.drop_all(made)
    with made.begin() as connection:
        connection.execute(sa.text("DROP TABLE IF EXISTS corgi_checkpoints"))
    metadata.create_all(made)
    yield made
    made.dispose()


metadata = sa.MetaData()
results = sa.Table(
    "results",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("partition_number", sa.Integer, nullable=False),
    sa.Column("message_offset", sa.BigInteger, nullable=False),
    sa.Column("value", sa.String(100), nullable=False),
)
