from __future__ import annotations

import stat
from pathlib import Path

import pytest

from fastapi_foundry.settings.home import make_private_directory


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_every_missing_directory_is_its_owners_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    make_private_directory(tmp_path / "home" / "logs")
    assert mode(tmp_path / "home") == mode(tmp_path / "home" / "logs") == 0o700
    assert mode(tmp_path) == 0o755


def test_a_directory_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir(mode=0o755)
    make_private_directory(tmp_path / "shared")
    assert mode(tmp_path / "shared") == 0o755


def test_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        make_private_directory(tmp_path / "file" / "logs")
