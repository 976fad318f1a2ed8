"""Which database the settings mean."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fastapi_foundry.errors import ConfigurationError
from fastapi_foundry.settings import load_settings
from fastapi_foundry.storage.address import database_address


def address(tmp_path, url: str = "", **environment: str):
    given = {"HOME": "/nowhere", "FOUNDRY_HOME": str(tmp_path), "FOUNDRY_DATABASE_URL": url} | environment
    return database_address(load_settings(environ=given))


def test_it_is_a_file_in_the_home_unless_another_is_named(tmp_path):
    usual = address(tmp_path)
    assert (usual.dialect, usual.file, usual.backups) == ("sqlite", tmp_path / "foundry.db", tmp_path / "backups")
    other = address(tmp_path, f"sqlite:///{tmp_path}/x/y.db")
    assert (other.file, other.backups) == (tmp_path / "x" / "y.db", tmp_path / "x" / "backups")


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_what_is_shown_of_a_server_is_no_secret(tmp_path, scheme):
    found = address(tmp_path, f"{scheme}://user:geh%40eim@db.example:5433/foundry?sslmode=require&password=geheim")
    assert found.shown == "postgresql://db.example:5433/foundry"
    assert "eim" not in repr(found)


def test_a_password_comes_from_its_file_without_the_line_end(tmp_path):
    file = tmp_path / "password"
    file.write_text("ge heim\n")
    name = "FASTAPI_FOUNDRY__STORAGE__PASSWORD_FILE"
    found = address(tmp_path, "postgresql://user@db/foundry", **{name: str(file)})
    assert found.password == "ge heim"
    assert "heim" not in repr(found)
    for content in (b"", b"\n", b"\xff"):
        file.write_bytes(content)
        with pytest.raises(ConfigurationError, match="password_file"):
            address(tmp_path, "postgresql://user@db/foundry", **{name: str(file)})
    file.unlink()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        address(tmp_path, "postgresql://user@db/foundry", **{name: str(file)})


def test_a_driver_that_is_not_installed_is_named_with_the_setting_and_the_command(tmp_path):
    code = (
        "import sys\n"
        "sys.modules['psycopg'] = None  # how Python itself marks what cannot be imported\n"
        "from fastapi_foundry.cli.main import run\n"
        "sys.exit(run(['db', 'check']))"
    )
    environment = {
        "FOUNDRY_HOME": str(tmp_path),
        "FOUNDRY_DATABASE_URL": "postgresql://u:geheim@h/db",
        "HOME": "/nowhere",
    }
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    assert "storage.url" in done.stderr
    assert 'pip install "psycopg[binary]' in done.stderr
    assert "geheim" not in done.stderr
