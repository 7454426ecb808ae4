from __future__ import annotations

import os
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from local.postgres import EmbeddedPostgres, EmbeddedPostgresError, discard
from local.postgres_programs import Programs
from tests import databases

AS_ROOT = os.geteuid() == 0
STRANGER = 54_321
TIMEOUT = 60


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A data directory that every account of the machine could reach, gone afterwards with its server."""
    folder = databases.own_folder()
    yield folder
    discard(folder)


@pytest.fixture
def closed_folder() -> Iterator[Path]:
    """A folder that only its owner can enter, like a home directory."""
    folder = Path(tempfile.mkdtemp())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    yield folder
    shutil.rmtree(folder)


def postgres(data_dir: Path, **options: object) -> EmbeddedPostgres:
    """A server for a test: kept data, no time spent on disks."""
    return EmbeddedPostgres(data_dir, **{"durable": False, "handle_signals": False, **options})  # type: ignore[arg-type]


def ask(server: EmbeddedPostgres, question: str) -> object:
    with psycopg.connect(server.dsn()) as connection:
        row = connection.execute(question.encode()).fetchone()
    assert row
    return row[0]


def remember(server: EmbeddedPostgres, word: str) -> None:
    with psycopg.connect(server.dsn()) as connection:
        connection.execute("create table if not exists memory (word text)")
        connection.execute("insert into memory values (%s)", [word])


def remembered(server: EmbeddedPostgres) -> object:
    return ask(server, "select string_agg(word, ' ' order by word) from memory")


def owner_of(process_id: int) -> int:
    answer = subprocess.run(["ps", "-o", "uid=", "-p", str(process_id)], capture_output=True, text=True, check=True)
    return int(answer.stdout)


def runs(process_id: int) -> bool:
    """Whether the process lives; a zombie that nobody waits for does not."""
    answer = subprocess.run(["ps", "-o", "stat=", "-p", str(process_id)], capture_output=True, text=True, check=False)
    return bool(answer.stdout.strip()) and not answer.stdout.strip().startswith("Z")


@contextmanager
def program(body: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A Python process of its own process group, as one in a terminal has, that runs `body`."""
    imports = """
        import os, signal, sys
        import psycopg
        from pathlib import Path
        from local.postgres import EmbeddedPostgres, EmbeddedPostgresError
    """
    script = textwrap.dedent(imports) + textwrap.dedent(body)
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=databases.ROOT,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def release(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


SERVE = """
    with EmbeddedPostgres(Path(sys.argv[1]), durable=False) as server:
        print(server.process_id, flush=True)
        sys.stdin.readline()
"""


def test_an_empty_folder_becomes_a_server_with_a_database(data_dir: Path) -> None:
    with postgres(data_dir) as server:
        assert ask(server, "select current_database() || ' ' || current_user") == "threadkeep postgres"
        assert ask(server, "show server_version_num") >= "180000"  # type: ignore[operator]


def test_text_sorts_by_code_point_and_knows_the_letters_of_all_languages(data_dir: Path) -> None:
    with postgres(data_dir) as server:
        assert ask(server, "show server_encoding") == "UTF8"
        assert ask(server, "select lower('ÄÉЖ')") == "äéж"
        assert ask(server, "select string_agg(x, '' order by x) from unnest(array['b', 'ä', 'B', 'a']) x") == "Babä"
        assert ask(server, "show timezone") == "UTC"


def test_data_is_kept_between_runs(data_dir: Path) -> None:
    with postgres(data_dir) as server:
        remember(server, "kept")
    with postgres(data_dir) as server:
        assert remembered(server) == "kept"


def test_the_server_ends_with_its_last_user(data_dir: Path) -> None:
    first, second = postgres(data_dir), postgres(data_dir)
    first.start()
    second.start()
    process_id = first.process_id
    assert second.process_id == process_id
    first.stop()
    assert ask(second, "select 1") == 1
    second.stop()
    assert not runs(process_id)
    with pytest.raises(EmbeddedPostgresError, match="not started"):
        second.dsn()


def test_temporary_data_ends_with_its_last_user(data_dir: Path) -> None:
    with postgres(data_dir, temporary=True) as server:
        remember(server, "gone")
    assert not data_dir.exists()


def test_temporary_data_of_a_killed_run_is_gone_at_the_next(data_dir: Path) -> None:
    with postgres(data_dir) as server:
        remember(server, "old")
    with program(SERVE, data_dir) as killed:
        line(killed)
        killed.kill()
        killed.wait(TIMEOUT)
    with postgres(data_dir, temporary=True) as server:
        assert ask(server, "select to_regclass('memory')") is None


def test_starting_at_the_same_moment_shares_one_server(data_dir: Path) -> None:
    with program(SERVE, data_dir) as one, program(SERVE, data_dir) as two, program(SERVE, data_dir) as three:
        started = {line(process) for process in (one, two, three)}
        assert len(started) == 1
        (process_id,) = map(int, started)
        for process in (one, two):
            release(process)
            assert process.wait(TIMEOUT) == 0
        assert runs(process_id)
        release(three)
        assert three.wait(TIMEOUT) == 0
        assert not runs(process_id)


def test_a_server_whose_starter_was_killed_is_taken_over(data_dir: Path) -> None:
    with postgres(data_dir) as server:
        remember(server, "kept")
    with program(SERVE, data_dir) as killed:
        left = int(line(killed))
        killed.kill()
        killed.wait(TIMEOUT)
    assert runs(left)
    with postgres(data_dir, max_connections=17) as server:
        assert remembered(server) == "kept"
        assert ask(server, "show max_connections") == "17"
    assert not runs(left)


def test_a_killed_server_starts_again_with_what_was_committed(data_dir: Path) -> None:
    with postgres(data_dir, durable=True) as server:
        remember(server, "kept")
        os.kill(server.process_id, signal.SIGKILL)
    assert (data_dir / "cluster" / "postmaster.pid").exists()
    with postgres(data_dir) as server:
        assert remembered(server) == "kept"


def test_a_killed_server_is_started_again_for_a_second_user(data_dir: Path) -> None:
    with postgres(data_dir) as server:
        os.kill(server.process_id, signal.SIGKILL)
        with postgres(data_dir) as again:
            assert ask(again, "select 1") == 1
            assert ask(server, "select 1") == 1


def test_a_process_id_that_was_given_away_again_does_not_block_the_start(data_dir: Path) -> None:
    with postgres(data_dir) as server:
        note = data_dir / "cluster" / "postmaster.pid"
        lines = note.read_text().splitlines()
        os.kill(server.process_id, signal.SIGKILL)
    with subprocess.Popen(["sleep", "60"], user=_account_of(data_dir)) as newcomer:
        note.write_text("\n".join([str(newcomer.pid), *lines[1:]]) + "\n")
        with postgres(data_dir) as server:
            assert ask(server, "select 1") == 1
        assert newcomer.poll() is None
        newcomer.kill()


def test_a_killed_initdb_leaves_nothing_that_blocks(data_dir: Path) -> None:
    (data_dir / "cluster.new" / "base").mkdir(parents=True)
    with postgres(data_dir) as server:
        assert ask(server, "select 1") == 1


def test_data_deleted_under_a_running_server_makes_room_for_a_new_one(data_dir: Path) -> None:
    old = postgres(data_dir)
    old.start()
    left = old.process_id
    shutil.rmtree(data_dir)
    with postgres(data_dir) as new:
        assert not runs(left)
        old.stop()
        assert ask(new, "select 1") == 1


def test_a_server_whose_data_was_deleted_still_ends_with_its_user(data_dir: Path) -> None:
    with postgres(data_dir) as server:
        process_id = server.process_id
        shutil.rmtree(data_dir)
    assert not runs(process_id)


def test_sigterm_stops_the_server_with_the_process(data_dir: Path) -> None:
    with program(SERVE, data_dir) as process:
        process_id = int(line(process))
        process.terminate()
        assert process.wait(TIMEOUT) == 128 + signal.SIGTERM
    assert not runs(process_id)


def test_a_server_that_nobody_stopped_ends_with_the_process(data_dir: Path) -> None:
    body = """
        server = EmbeddedPostgres(Path(sys.argv[1]), durable=False)
        server.start()
        print(server.process_id, flush=True)
    """
    with program(body, data_dir) as process:
        process_id = int(line(process))
        assert process.wait(TIMEOUT) == 0
    assert not runs(process_id)


def test_ctrl_c_in_the_terminal_leaves_the_server_until_the_process_is_done(data_dir: Path) -> None:
    body = """
        with EmbeddedPostgres(Path(sys.argv[1]), durable=False) as server:
            try:
                print(server.process_id, flush=True)
                sys.stdin.readline()
            except KeyboardInterrupt:
                with psycopg.connect(server.dsn()) as connection:
                    print(connection.execute("select 'still there'").fetchone()[0], flush=True)
    """
    with program(body, data_dir) as process:
        process_id = int(line(process))
        os.killpg(process.pid, signal.SIGINT)
        assert line(process) == "still there"
        assert process.wait(TIMEOUT) == 0
    assert not runs(process_id)


@pytest.mark.parametrize("version", [15, 16, 18])
def test_each_version_that_is_here_runs(data_dir: Path, version: int) -> None:
    try:
        Programs.find(version)
    except EmbeddedPostgresError as error:
        pytest.skip(str(error))
    with postgres(data_dir, version=version) as server:
        assert str(ask(server, "show server_version_num")).startswith(str(version))
        assert ask(server, "select lower('Ä')") == "ä"


def test_programs_of_a_given_folder_run(data_dir: Path) -> None:
    with postgres(data_dir, binaries=Programs.find(16).folder) as server:
        assert str(ask(server, "show server_version_num")).startswith("16")


def test_a_folder_without_programs_is_refused(data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match="no PostgreSQL that runs"):
        postgres(data_dir, binaries=tmp_path).start()


def test_a_version_that_is_not_here_is_refused_with_those_that_are(data_dir: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match=r"no PostgreSQL 9 here.*16 and 18"):
        postgres(data_dir, version=9).start()


def test_data_of_another_version_is_refused_with_what_to_do_and_kept(data_dir: Path) -> None:
    with postgres(data_dir, version=16) as server:
        remember(server, "kept")
    with pytest.raises(EmbeddedPostgresError, match=r"made by PostgreSQL 16.*this is PostgreSQL 18.*with version 16"):
        postgres(data_dir, version=18).start()
    with postgres(data_dir) as server:
        assert remembered(server) == "kept"


def test_durability_is_given_up_only_on_request(data_dir: Path) -> None:
    question = "select string_agg(setting, ' ' order by name) from pg_settings where name in ({})".format(
        "'fsync', 'full_page_writes', 'synchronous_commit'"
    )
    with postgres(data_dir, durable=True) as server:
        assert ask(server, question) == "on on on"
    with postgres(data_dir, durable=False) as server:
        assert ask(server, question) == "off off off"


def test_nothing_listens_on_the_network_unless_asked(data_dir: Path) -> None:
    with postgres(data_dir) as server:
        assert ask(server, "show listen_addresses") == ""
        with pytest.raises(EmbeddedPostgresError, match="listen_tcp"):
            server.tcp_dsn()
        with pytest.raises(EmbeddedPostgresError, match="without TCP"):
            postgres(data_dir, listen_tcp=True).start()


def test_tcp_is_loopback_only_and_asks_for_the_password(data_dir: Path) -> None:
    with postgres(data_dir, listen_tcp=True) as server:
        assert ask(server, "show listen_addresses") == "127.0.0.1"
        dsn = server.tcp_dsn()
        with psycopg.connect(dsn) as connection:
            assert connection.info.host == "127.0.0.1"
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(dsn, password="guess")
    with postgres(data_dir, listen_tcp=True) as server, psycopg.connect(server.tcp_dsn()) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


@pytest.mark.parametrize("name", ["with space, comma and 'quote'", "long-" * 40])
def test_any_path_will_do(data_dir: Path, name: str) -> None:
    folder = data_dir / name
    try:
        with postgres(folder) as server:
            assert ask(server, "select 1") == 1
            socket_dir = Path(str(ask(server, "show unix_socket_directories")))
            assert stat.S_IMODE(socket_dir.stat().st_mode) & 0o007 == 0
        assert not socket_dir.exists()
    finally:
        discard(folder)
        data_dir.rmdir()


def test_a_folder_with_other_files_is_refused_and_left_as_it_is(data_dir: Path) -> None:
    data_dir.mkdir(mode=0o755)
    try:
        (data_dir / "thesis.txt").write_text("draft")
        before = data_dir.stat()
        with pytest.raises(EmbeddedPostgresError, match="holds other files"):
            postgres(data_dir).start()
        assert data_dir.stat().st_mode == before.st_mode
        assert [path.name for path in data_dir.iterdir()] == ["thesis.txt"]
    finally:
        shutil.rmtree(data_dir)


def test_other_users_of_the_machine_cannot_get_in(data_dir: Path) -> None:
    with postgres(data_dir) as server:
        assert stat.S_IMODE(data_dir.stat().st_mode) & 0o007 == 0
        if not AS_ROOT:
            assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
            return
        account = owner_of(server.process_id)
        for user in (STRANGER, account):  # the account may run other things: without the server's group they stay out
            look = subprocess.run(["ls", data_dir], user=user, group=STRANGER, extra_groups=[], capture_output=True)
            assert look.returncode != 0


@pytest.mark.skipif(not AS_ROOT, reason="needs root, to become another user")
def test_a_folder_that_another_user_made_in_advance_is_refused(data_dir: Path) -> None:
    data_dir.mkdir()
    os.chown(data_dir, STRANGER, STRANGER)
    try:
        with pytest.raises(EmbeddedPostgresError, match="belongs to another user"):
            postgres(data_dir).start()
    finally:
        data_dir.rmdir()


@pytest.mark.skipif(not AS_ROOT, reason="needs root")
def test_as_root_the_server_is_not_root(data_dir: Path) -> None:
    with postgres(data_dir) as server:
        assert owner_of(server.process_id) != 0
        assert (data_dir / "cluster").stat().st_uid == owner_of(server.process_id)


@pytest.mark.skipif(not AS_ROOT, reason="needs root")
def test_as_root_a_closed_folder_stays_closed_and_its_data_is_kept_elsewhere(closed_folder: Path) -> None:
    data_dir = closed_folder / "data" / "postgres"
    try:
        with postgres(data_dir) as server:
            remember(server, "kept")
            assert owner_of(server.process_id) != 0
        place = Path((data_dir / "location").read_text().strip())
        assert (place / "cluster").is_dir()
        with postgres(data_dir) as server:
            assert remembered(server) == "kept"
        for parent in (closed_folder, closed_folder / "data"):
            assert (parent.stat().st_uid, parent.stat().st_gid) == (0, 0)
        assert stat.S_IMODE(closed_folder.stat().st_mode) == 0o700
    finally:
        discard(data_dir)
    assert not place.exists()
    assert not data_dir.exists()


@pytest.mark.skipif(not AS_ROOT, reason="needs root")
def test_as_root_programs_in_a_closed_folder_are_copied_to_where_the_server_can_run_them(
    data_dir: Path, closed_folder: Path
) -> None:
    original = Programs.find(18).folder
    package = original.parents[1]
    for source in (original.parent, *package.parent.glob(f"{package.name}.libs")):
        shutil.copytree(source, closed_folder / source.relative_to(package.parent))
    copy = closed_folder / original.relative_to(package.parent)
    with postgres(data_dir, binaries=copy) as server:
        assert owner_of(server.process_id) != 0
        command = Path(f"/proc/{server.process_id}/exe")
        if command.exists():
            assert closed_folder not in command.resolve().parents
    assert stat.S_IMODE(closed_folder.stat().st_mode) == 0o700


@pytest.mark.skipif(not AS_ROOT, reason="needs root, to become another user")
def test_data_whose_folder_was_closed_later_is_not_taken_for_missing() -> None:
    parent = databases.memory() / f"threadkeep-parent-{secrets.token_hex(4)}"
    parent.mkdir(mode=0o755)
    data_dir = parent / "postgres"
    try:
        with postgres(data_dir) as server:
            remember(server, "kept")
        parent.chmod(0o700)
        with pytest.raises(EmbeddedPostgresError, match="cannot reach it any more"):
            postgres(data_dir).start()
        assert stat.S_IMODE(parent.stat().st_mode) == 0o700
    finally:
        shutil.rmtree(parent)


@pytest.mark.skipif(not AS_ROOT, reason="needs root, to become another user")
def test_an_ordinary_user_runs_it_and_root_shares_it() -> None:
    """The server then runs as that user whoever starts it, so that the user can go on with the data."""
    body = f"""
        os.setgroups([])
        os.setgid({STRANGER})
        os.setuid(65534)
        with EmbeddedPostgres(Path(sys.argv[1]), durable=False) as server:
            print(server.process_id, flush=True)
            sys.stdin.readline()
    """
    parent = databases.memory() / f"threadkeep-parent-{secrets.token_hex(4)}"
    parent.mkdir(mode=0o755)
    os.chown(parent, 65534, STRANGER)
    data_dir = parent / "postgres"
    try:
        with program(body, data_dir) as user:
            process_id = int(line(user))
            assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
            with postgres(data_dir) as server:
                assert server.process_id == process_id
                remember(server, "by root")
            release(user)
            assert user.wait(TIMEOUT) == 0
        with postgres(data_dir) as server:
            assert owner_of(server.process_id) == 65534
        with program(body, data_dir) as user:
            int(line(user))
    finally:
        discard(data_dir)
        shutil.rmtree(parent)


def _account_of(data_dir: Path) -> int | None:
    """Whom to run a process as for it to have the server's own account."""
    return (data_dir / "cluster").stat().st_uid if AS_ROOT else None
