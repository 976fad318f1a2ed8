from __future__ import annotations

import json

import pytest

from fastapi_foundry.cli.terminal import Terminal, clean, clean_line, megabytes


@pytest.mark.parametrize(
    ("hostile", "harmless"),
    [
        ("\x1b[2Jgone", "[2Jgone"),
        ("\x1b]0;title\x07name", "]0;titlename"),
        ("a\rb", "ab"),
        ("a\x9b31mb", "a31mb"),
        ("\u202egnp.exe", "gnp.exe"),
        ("one\ntwo\tthree", "one\ntwo\tthree"),
        ("naïve 漢字 🙂", "naïve 漢字 🙂"),
    ],
)
def test_control_characters_never_reach_the_terminal(hostile, harmless):
    assert clean(hostile) == harmless


def test_a_name_with_line_breaks_stays_on_one_line():
    assert clean_line("name\n\x1b[1mfake row\t x") == "name [1mfake row x"


@pytest.mark.parametrize(
    ("size", "words"), [(None, ""), (0, ""), ("x", ""), (7.34, "7.3 MB"), (512.4, "512 MB"), (2048, "2.0 GB")]
)
def test_sizes_are_said_in_fitting_units(size, words):
    assert megabytes(size) == words


def test_a_table_in_a_pipe_is_plain_columns(capsys):
    Terminal().table(("MODEL", "STATE"), [("a:1", "loaded"), ("longer-name:12", "in\x1buse")])
    assert capsys.readouterr().out == "MODEL           STATE\na:1             loaded\nlonger-name:12  inuse\n"


def test_fields_without_a_value_are_left_out(capsys):
    Terminal().fields([("Process", 12), ("Reason", ""), ("Version", None), ("Offline", "no")])
    assert capsys.readouterr().out == "Process  12\nOffline  no\n"


def test_with_json_only_the_document_is_written(capsys):
    terminal = Terminal(json=True)
    terminal.say("text")
    terminal.note("note")
    terminal.table(("A",), [("b",)])
    with terminal.waiting("waiting"), terminal.progress("progress") as show:
        show(50.0, "")
    terminal.document({"status": "done"})
    said = capsys.readouterr()
    assert json.loads(said.out) == {"status": "done"}
    assert said.err == ""


def test_without_json_the_document_is_not_written(capsys):
    Terminal().document({"status": "done"})
    assert capsys.readouterr().out == ""


def test_waiting_in_a_pipe_is_one_line_on_stderr(capsys):
    with Terminal().waiting("Loading it"):
        pass
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "Loading it ...\n")
