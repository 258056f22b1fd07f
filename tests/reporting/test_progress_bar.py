import importlib.util

import pytest

from keras_pruner.reporting.progress_bar import progress_bar


def run(verbose):
    with progress_bar(verbose) as bar:
        task = bar.add_task("layers", total=2)
        bar.advance(task)
        bar.advance(task)


@pytest.fixture
def in_a_terminal(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    # Another test may have left its size and its bars to the console of the process.
    monkeypatch.setattr("rich._console", None)


def test_a_terminal_shows_it_on_request(in_a_terminal, capsys):
    run(verbose=False)
    assert capsys.readouterr().out == ""
    run(verbose=True)
    assert "layers" in capsys.readouterr().out


def test_a_pipe_gets_nothing(monkeypatch, capsys):
    monkeypatch.setattr("rich._console", None)
    run(verbose=True)
    assert capsys.readouterr().out == ""


def test_a_notebook_without_widgets_shows_nothing(in_a_terminal, monkeypatch, capsys):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    run(verbose=True)
    assert capsys.readouterr().out == ""
