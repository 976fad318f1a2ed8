from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastapi_foundry.daemon.memory import MIB, ProcessMemory, machine_memory_mb, memory_mb, need_from_files
from fastapi_foundry.daemon.memory_book import MemoryBook
from fastapi_foundry.daemon.model_files import ModelFiles
from fastapi_foundry.daemon.store import LocalModel
from tests.support.models import DEMO_DIRECTORY


def model(*, name: str = "m:1", size: int = 1000, created: int = 5) -> LocalModel:
    files = ModelFiles("m", "chat-completion", tool_calling=False, context_length=10, size_bytes=size, created=created)
    return LocalModel(name, DEMO_DIRECTORY, "store", files)


def group(root: Path, path: str, name: str, value: str) -> None:
    directory = root / path
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(value + "\n")


def proc(tmp_path: Path, lines: str) -> Path:
    group(tmp_path / "proc", "self", "cgroup", lines)
    return tmp_path / "proc"


def test_memory_of_a_process_is_known_while_it_lives():
    memory = ProcessMemory.of(os.getpid())
    assert memory is not None
    assert 5 < memory.rss_mb <= memory.peak_mb
    assert memory_mb(os.getpid()) == pytest.approx(memory.rss_mb, rel=0.2)
    assert memory_mb(2**30) is None


def test_a_process_that_nobody_has_waited_for_has_no_memory():
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert ProcessMemory.of(process.pid) is None
    process.wait()


def test_the_peak_outlasts_the_memory():
    code = "b = bytearray(80 << 20); del b; print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        memory = ProcessMemory.of(process.pid)
        process.kill()
    assert memory is not None
    assert memory.peak_mb > memory.rss_mb + 60


def test_the_tightest_limit_on_the_way_to_the_root_of_a_cgroup_counts(tmp_path: Path):
    groups = tmp_path / "groups"
    group(groups, "a/b", "memory.max", "max")
    group(groups, "a", "memory.max", str(300 * MIB))
    group(groups, ".", "memory.max", str(900 * MIB))
    assert machine_memory_mb(proc(tmp_path, "0::/a/b\n"), groups) == 300


def test_a_containers_own_root_counts_too(tmp_path: Path):
    groups = tmp_path / "groups"
    group(groups, ".", "memory.max", str(200 * MIB))
    assert machine_memory_mb(proc(tmp_path, "0::/\n"), groups) == 200


def test_the_first_version_of_cgroups_counts(tmp_path: Path):
    groups = tmp_path / "groups"
    group(groups, "memory/x", "memory.limit_in_bytes", str(400 * MIB))
    group(groups, "memory", "memory.limit_in_bytes", str(2**63 - 4096))
    assert machine_memory_mb(proc(tmp_path, "4:cpu,memory:/x\n1:cpu:/y\n"), groups) == 400


def test_without_a_limit_the_machine_counts(tmp_path: Path):
    whole = machine_memory_mb(tmp_path, tmp_path)
    assert whole > 100
    assert machine_memory_mb(proc(tmp_path, "0::/a\nnonsense\n"), tmp_path) == whole


def test_the_first_estimate_counts_weights_runner_and_cache(tmp_path: Path):
    decoder = {"num_hidden_layers": 2, "num_key_value_heads": 4, "head_size": 128}
    (tmp_path / "genai_config.json").write_text(json.dumps({"model": {"decoder": decoder}}))
    small, large = (need_from_files(tmp_path, size * MIB, 1024) for size in (100, 1100))
    assert large.least_mb - small.least_mb > 1000
    assert small.least_mb > 100
    # 2 x 2 layers x 4 heads x 128 x 4 bytes for 1,024 tokens.
    assert small.likely_mb - small.least_mb == 8
    assert not small.measured
    assert need_from_files(tmp_path, 0, 10**9).likely_mb == need_from_files(tmp_path, 0, 4096).likely_mb


@pytest.mark.parametrize("config", ["", "[]", '{"model": 1}', '{"model": {"decoder": {"head_size": "x"}}}'])
def test_a_configuration_that_says_nothing_leaves_the_weights(tmp_path: Path, config: str):
    (tmp_path / "genai_config.json").write_text(config)
    need = need_from_files(tmp_path, MIB, 100)
    assert need.likely_mb == need.least_mb > 1


async def test_what_was_measured_holds_after_a_restart_and_for_these_files_alone(tmp_path: Path):
    book = MemoryBook(tmp_path / "model-memory.json")
    book.read()
    assert book.measured(model()) is None
    assert not (await book.need(model())).measured
    book.note_loaded(model(), 80)
    book.note_peak(model(), 150)
    book.note_peak(model(), 120)
    await book.save()
    again = MemoryBook(tmp_path / "model-memory.json")
    again.read()
    need = await again.need(model())
    assert (need.least_mb, need.likely_mb, need.measured) == (80, 150, True)
    assert again.measured(model(size=1001)) is None
    assert again.measured(model(created=6)) is None


async def test_a_run_that_ended_corrects_the_peak_downwards(tmp_path: Path):
    book = MemoryBook(tmp_path / "model-memory.json")
    book.note_loaded(model(), 80)
    book.note_peak(model(), 900)
    book.note_loaded(model(), 90)
    assert book.measured(model()).likely_mb == 900
    book.note_peak(model(), 200, replace=True)
    assert book.measured(model()).likely_mb == 200


async def test_a_book_that_cannot_be_read_or_written_does_no_harm(tmp_path: Path):
    path = tmp_path / "model-memory.json"
    for damaged in ("{", '{"models": {"m:1": 5}}', "[]", '{"models": {"m:1": {"peak_mb": "x"}}}'):
        path.write_text(damaged)
        book = MemoryBook(path)
        book.read()
        assert book.measured(model()) is None
    (tmp_path / "file").write_text("")
    book = MemoryBook(tmp_path / "file" / "model-memory.json")
    book.note_loaded(model(), 80)
    await book.save()
    assert book.measured(model()) is not None
