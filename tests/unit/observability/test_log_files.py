"""Files: where they are, how they rotate, and what happens when writing is not possible."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from fastapi_foundry.errors import ConfigurationError
from fastapi_foundry.observability import pipeline as pipelines
from fastapi_foundry.observability.handlers import RotatingFile
from fastapi_foundry.observability.logging import configure_logging, get_logger
from fastapi_foundry.observability.records import Record
from fastapi_foundry.settings import LoggingSettings
from tests.support.waiting import eventually_sync

logger = get_logger(__name__)


def test_files_rotate_by_size_and_old_ones_are_dropped(logs):
    logs.configure(max_file_bytes=2048, backup_count=2)
    for number in range(100):
        logger.info("a record of some length", number=number)
    last = logs.records()
    files = sorted(logs.directory.glob("fastapi-foundry-structured.jsonl*"))
    assert [path.name for path in files] == [f"fastapi-foundry-structured.jsonl{end}" for end in ("", ".1", ".2")]
    assert all(path.stat().st_size <= 2048 for path in files)
    kept = [json.loads(line)["number"] for path in reversed(files) for line in path.read_text().splitlines()]
    assert kept == list(range(100 - len(kept), 100))
    assert last[-1]["number"] == 99


def test_a_file_rotates_when_what_several_batches_wrote_is_enough(tmp_path):
    file = RotatingFile(tmp_path / "x.log", max_bytes=100, backup_count=9)
    for number in range(4):
        file.write([f"{number}{'-' * 18}\n".encode()] * 2)
    file.close()
    assert [(tmp_path / name).stat().st_size for name in ("x.log", "x.log.1")] == [60, 100]


def test_without_backups_a_full_file_is_begun_again(logs):
    logs.configure(max_file_bytes=1024, backup_count=0)
    for number in range(100):
        logger.info("x", number=number)
    assert logs.records()[-1]["number"] == 99
    assert not list(logs.directory.glob("*.1"))


def test_a_line_longer_than_the_limit_is_written_whole(logs):
    logs.configure(max_file_bytes=1024)
    logger.info("x", field="f" * 5000)
    assert len(logs.record()["field"]) == 5000


def test_records_are_appended_to_what_is_there(logs):
    logs.configure()
    logger.info("one")
    logs.handle.close()
    logs.configure()
    logger.info("two")
    assert [record["message"] for record in logs.records()] == ["one", "two"]


def test_a_line_that_was_cut_off_by_a_crash_spoils_no_other(logs):
    logs.directory.mkdir()
    (logs.directory / "fastapi-foundry-structured.jsonl").write_text('{"cut of')
    logs.configure()
    logger.info("whole")
    first, second = logs.text("fastapi-foundry-structured.jsonl").splitlines()
    assert first == '{"cut of'
    assert json.loads(second)["message"] == "whole"


def test_a_file_that_was_taken_away_is_made_again(logs):
    logs.configure()
    logger.info("one")
    path = logs.directory / "fastapi-foundry.log"
    eventually_sync(lambda: "one" in path.read_text())
    path.rename(path.with_suffix(".moved"))
    logger.info("two")
    assert "two" in logs.text()
    assert "one" not in logs.text()


def test_what_another_process_did_to_a_file_is_noticed_before_the_next_batch(tmp_path):
    path = tmp_path / "x.log"
    ours, others = (RotatingFile(path, max_bytes=100, backup_count=9) for _ in range(2))
    ours.write([b"ours\n"])
    others.write([b"x" * 94 + b"\n"])
    ours.write([b"more\n"])
    assert (path.read_bytes(), path.with_name("x.log.1").stat().st_size) == (b"more\n", 100)
    others.write([b"others\n"])
    assert path.read_bytes() == b"more\nothers\n"
    for file in (ours, others):
        file.close()


def test_a_file_that_nobody_touched_is_not_opened_again(tmp_path, monkeypatch):
    file = RotatingFile(tmp_path / "x.log", max_bytes=100, backup_count=9)
    monkeypatch.setattr("fastapi_foundry.observability.handlers.os.open", None)
    for _ in range(2):
        file.write([b"a line\n"])
    file.close()
    assert file.path.read_bytes() == b"a line\n" * 2


def test_two_processes_that_rotate_one_file_lose_no_line(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from fastapi_foundry.observability.handlers import RotatingFile\n"
        "file = RotatingFile(Path(sys.argv[1]), max_bytes=20_000, backup_count=50)\n"
        "for number in range(1500): file.write([f'{sys.argv[2]}-{number:06d}-{\"x\" * 80}\\n'.encode()])\n"
    )
    path = tmp_path / "shared.log"
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in ("a", "b")]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    lines = [line for file in tmp_path.glob("shared.log*") for line in file.read_text().splitlines()]
    assert all(len(line) == 89 for line in lines)
    assert len(lines) == len(set(lines)) == 3000


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_is_not_writable_is_a_configuration_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigurationError) as caught:
        configure_logging(LoggingSettings(), home=tmp_path, process="gateway")
    assert caught.value.key == "logging.dir"


def test_a_directory_that_cannot_be_one_is_a_configuration_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError) as caught:
        configure_logging(LoggingSettings(dir=tmp_path / "file" / "logs"), home=tmp_path, process="gateway")
    assert caught.value.key == "logging.dir"
    assert str(tmp_path / "file") in caught.value.message


def test_a_full_disk_is_counted_and_ends_nothing(logs, monkeypatch, capsys):
    handle = logs.configure()
    real_write = os.write

    def full(descriptor: int, data: bytes) -> int:
        real_write(descriptor, data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fastapi_foundry.observability.handlers.os.write", full)
    logger.info("lost")
    eventually_sync(lambda: handle.dropped >= 2)
    monkeypatch.setattr("fastapi_foundry.observability.handlers.os.write", real_write)
    logger.info("kept")
    whole = [line for line in logs.text("fastapi-foundry-structured.jsonl").splitlines() if line.endswith("}")]
    messages = [json.loads(line)["message"] for line in whole]
    assert messages == ["kept", "log records were dropped"]
    assert "No space left" in capsys.readouterr().err


class Stuck(RotatingFile):
    """A disk that does not answer."""

    def __init__(self, path: Path, gate: threading.Event) -> None:
        super().__init__(path, max_bytes=1_000_000, backup_count=1)
        self.gate = gate
        self.reached = threading.Event()

    def write(self, lines) -> None:
        self.reached.set()
        self.gate.wait(10)
        super().write(lines)


def test_a_slow_disk_makes_nobody_wait_and_what_is_dropped_is_said(tmp_path):
    gate = threading.Event()
    file = Stuck(tmp_path / "x.jsonl", gate)
    levels = {None: pipelines.Thresholds(file=20, console=60)}
    route = pipelines.Route(file, lambda _: True, structured=True)
    writer = pipelines.Pipeline("gateway", [route], levels, verbose=False, capacity=50)
    record = Record(time.time(), 20, "x", "m", {}, None)
    writer.submit(record)
    assert file.reached.wait(5)
    begin = time.perf_counter()
    for _ in range(1000):
        writer.submit(record)
    assert time.perf_counter() - begin < 0.5
    gate.set()
    writer.close()
    records = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    (said,) = [record for record in records if record["level"] == "warning"]
    assert said["message"] == "log records were dropped"
    assert said["dropped"] == 950
    assert len(records) == 52


def test_closing_writes_everything_that_waits(logs):
    logs.configure()
    for number in range(5000):
        logger.info("x", number=number)
    assert len(logs.records()) == 5000


def test_closing_gives_every_file_and_thread_back(logs):
    for _ in range(3):
        logs.configure().close()
    directory = str(logs.directory)
    assert not [file.path for file in psutil.Process().open_files() if file.path.startswith(directory)]
    assert "log-writer" not in [thread.name for thread in threading.enumerate()]


def test_records_of_many_threads_are_all_written_whole(logs):
    logs.configure()

    def work(name: int) -> None:
        for number in range(200):
            logger.info("x", thread_number=name, number=number)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({(record["thread_number"], record["number"]) for record in logs.records()}) == 1600


def test_the_end_of_a_process_writes_everything_even_if_nobody_closes(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from fastapi_foundry.observability.logging import configure_logging, get_logger\n"
        "from fastapi_foundry.settings import LoggingSettings\n"
        "configure_logging(LoggingSettings(), home=Path(sys.argv[1]), process='service')\n"
        "get_logger('x').info('last words')\n"
        "raise ValueError('the end')\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    lines = (tmp_path / "logs" / "foundry-service-structured.jsonl").read_text().splitlines()
    first, second = (json.loads(line) for line in lines)
    assert first["message"] == "last words"
    assert (second["level"], second["message"]) == ("critical", "uncaught exception")
    assert "the end" in second["exception"]
    assert "the end" in result.stderr
