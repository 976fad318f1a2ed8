"""What run.py starts, and how."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path

import pytest

from tests.support.tools import require_tool

ROOT = Path(__file__).parents[3]


def test_it_works_from_any_directory_and_changes_none(ready, report, tmp_path):
    result = ready.run("register", "a/relative/path", cwd=tmp_path)
    assert report(result)["cwd"] == str(tmp_path)
    assert report(result)["argv"] == ["register", "a/relative/path"]


def test_files_in_the_current_directory_are_not_imported(ready, report, tmp_path):
    (tmp_path / "fastapi_foundry.py").write_text("raise SystemExit(9)")
    (tmp_path / "json.py").write_text("raise SystemExit(9)")
    assert ready.run("x", cwd=tmp_path).returncode == 0


def test_the_exit_status_is_the_clis_own(ready):
    assert ready.run("fail").returncode == 7


def test_a_config_json_next_to_it_is_used_unless_another_is_named(ready, report):
    assert report(ready.run("x"))["config"] is None
    configuration = ready.root / "config.json"
    configuration.write_text("{}")
    try:
        assert report(ready.run("x"))["config"] == str(configuration)
        assert report(ready.run("x", FASTAPI_FOUNDRY_CONFIG="/other.json"))["config"] == "/other.json"
    finally:
        configuration.unlink()


@pytest.mark.parametrize("home", ["", "/nonexistent"])
def test_it_works_without_a_home_directory(ready, home):
    assert ready.run("x", HOME=home).returncode == 0


def load_run_script():
    spec = importlib.util.spec_from_file_location("run_script", ROOT / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 6, 8), (3, 10, 12)])
def test_an_old_python_is_told_which_one_is_needed(monkeypatch, capsys, version):
    script = load_run_script()
    monkeypatch.setattr(sys, "version_info", version)
    assert script.main() == 1
    expected = f"Python 3.11 or newer is needed, this is {'.'.join(map(str, version))}"
    assert expected in capsys.readouterr().err


def test_old_pythons_can_read_the_script():
    tree = ast.parse((ROOT / "run.py").read_text(encoding="utf-8"))
    too_new = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.Match, ast.AsyncFunctionDef, ast.Nonlocal, ast.Starred)
    assert not [node for node in ast.walk(tree) if isinstance(node, too_new)]
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert not [node for node in functions if node.returns or any(arg.annotation for arg in node.args.args)]
    imports = [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    assert imports == ["os", "sys"]


class Recorder:
    def __init__(self, statuses: dict[str, int] | None = None) -> None:
        self.commands: list[tuple[Path | None, list[str]]] = []
        self.statuses = statuses or {}

    def __call__(self, directory, command, variables=None) -> int:
        self.commands.append((directory, list(command)))
        return next((status for word, status in self.statuses.items() if word in " ".join(command)), 0)


@pytest.fixture
def launcher(modules, monkeypatch):
    """The launcher with an environment that is there, and programs that are noted instead of started."""
    module = modules("launcher")
    monkeypatch.setattr(module.Environment, "ensure", lambda self, level: None)
    monkeypatch.setattr(module, "ensure_system_tools", lambda say: None)
    recorder = Recorder()
    monkeypatch.setattr(module, "_run", recorder)
    module.recorder = recorder
    return module


def test_all_tests_run_with_coverage(launcher, tmp_path):
    assert launcher.launch(str(tmp_path), ["test"]) == 0
    steps = [command[1:5] for _, command in launcher.recorder.commands]
    assert steps == [
        ["-m", "coverage", "erase"],
        ["-m", "coverage", "run", "-m"],
        ["-m", "coverage", "combine", "-q"],
        ["-m", "coverage", "report", "--fail-under=90"],
    ]
    assert {directory for directory, _ in launcher.recorder.commands} == {tmp_path}


def test_failing_tests_are_the_exit_status_and_no_coverage_is_reported(launcher, tmp_path):
    launcher.recorder.statuses = {"coverage run": 1}
    assert launcher.launch(str(tmp_path), ["test"]) == 1
    assert "report" not in launcher.recorder.commands[-1][1]


def test_too_little_coverage_is_a_failure(launcher, tmp_path):
    launcher.recorder.statuses = {"coverage report": 2}
    assert launcher.launch(str(tmp_path), ["test"]) == 2


def test_chosen_tests_run_without_coverage_and_paths_keep_their_meaning(launcher, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_x.py").write_text("")
    launcher.launch(str(ROOT), ["test", "test_x.py::test_one", "-q"])
    launcher.launch(str(ROOT), ["test", "-k", "something"])
    (here, first), (there, second) = launcher.recorder.commands
    assert here is None
    assert first[-2:] == ["test_x.py::test_one", "-q"]
    assert there == ROOT
    assert second[-2:] == ["-k", "something"]


def test_every_check_runs_and_failures_are_collected(launcher, capsys):
    launcher.recorder.statuses = {"mypy": 1, "lint-imports": 1}
    assert launcher.launch(str(ROOT), ["check"]) == 1
    assert len(launcher.recorder.commands) == 7
    assert "failed: types, layers" in capsys.readouterr().err


def test_the_documentation_check_finds_the_documentation_tests(launcher):
    launcher.launch(str(ROOT), ["check"])
    (names,) = [command for _, command in launcher.recorder.commands if "pytest" in command]
    assert "tests/unit/settings/test_configuration_documentation.py" in names


def test_the_checks_scan_our_code_and_ask_for_known_vulnerabilities(launcher, capsys):
    launcher.recorder.statuses = {"audit.py": 1}
    assert launcher.launch(str(ROOT), ["check"]) == 1
    scripts = [Path(command[-1]) for _, command in launcher.recorder.commands if "supply_chain" in command[-1]]
    assert [path.name for path in scripts] == ["scan.py", "audit.py"]
    assert all(path.is_file() for path in scripts)
    assert "failed: known vulnerabilities" in capsys.readouterr().err


def test_the_sbom_is_made_with_what_the_tests_need(launcher):
    launcher.launch(str(ROOT), ["sbom", "--output", "x"])
    ((_, command),) = launcher.recorder.commands
    assert Path(command[1]).is_file()
    assert command[1:] == [str(ROOT / "tools" / "supply_chain" / "sbom.py"), "--output", "x"]


def test_missing_tools_are_installed_by_root_on_debian(modules, monkeypatch):
    tools = modules("system_tools")
    commands, said = [], []
    present = {"apt-get": "/usr/bin/apt-get", "jq": "/usr/bin/jq"}
    monkeypatch.setattr(tools.shutil, "which", present.get)
    monkeypatch.setattr(tools.os, "geteuid", lambda: 0, raising=False)
    monkeypatch.setattr(tools.sys, "platform", "linux")
    monkeypatch.setattr(tools.subprocess, "run", lambda command, **_: commands.append(command[1:]))
    tools.ensure_system_tools(said.append)
    assert commands[0] == ["update", "-q"]
    assert commands[1][-3:] == ["curl", "redis-server", "strace"]
    assert "Not on this machine: chromium, curl, redis-server, strace" in said[-1]


def test_missing_tools_are_only_named_to_others(modules, monkeypatch):
    tools = modules("system_tools")
    said = []
    monkeypatch.setattr(tools.shutil, "which", {"apt-get": "/usr/bin/apt-get"}.get)
    monkeypatch.setattr(tools.os, "geteuid", lambda: 1000, raising=False)
    monkeypatch.setattr(tools.sys, "platform", "linux")
    monkeypatch.setattr(tools.subprocess, "run", lambda *_, **__: pytest.fail("started something"))
    tools.ensure_system_tools(said.append)
    (line,) = said
    assert line.startswith("Not on this machine: chromium, curl, jq, redis-server, strace; ")
    assert line.endswith("the tests that use them are skipped (with CI=true they fail)")


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_a_missing_tool_skips_a_test_but_fails_it_in_ci(monkeypatch, ci, outcome):
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="no-such-tool is not installed"):
        require_tool("no-such-tool")
