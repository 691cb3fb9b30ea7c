"""The help: its table of commands, and its output where nobody reads it.

Covers `jobs/cli.py` too.
"""

import subprocess
import sys

import pytest

from diffmix.config import Config
from diffmix.options import groups, options
from jobs.cli import COMMANDS, main
from jobs.help import LEGEND, is_read


@pytest.fixture
def shown(capsys):
    """`shown(words)` gives what a command line prints."""

    def run(*arguments: str) -> str:
        assert main(list(arguments)) == 0
        return capsys.readouterr().out

    return run


def listed(text: str) -> set[str]:
    """Names of the options that a help text lists."""
    return {line.split()[0][2:] for line in text.splitlines() if line.startswith("  --")}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_the_usual_options_that_the_command_reads(command, shown, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    text = shown(command, "--help")
    usual = {
        name
        for name, option in options(Config).items()
        if option.usual and is_read(option, COMMANDS[command].reads)
    }
    assert listed(text) == usual | {"config", "help", "help-all"}
    assert len(text.splitlines()) < 60
    assert max(map(len, text.splitlines())) <= 100


def test_help_of_report_has_nothing_of_training(shown):
    text = shown("report", "--help")
    assert "--data.train" in text
    assert "--train." not in text
    assert "--placement." not in text


@pytest.mark.parametrize("command", ["run", "report", "doctor"])
def test_help_all_lists_every_option_with_bounds_and_the_legend_once(command, shown):
    text = shown(command, "--help-all")
    assert listed(text) == {*options(Config), "config", "help", "help-all"}
    words = " ".join(text.split())
    assert words.count(LEGEND) == 1
    assert "(one or more numbers above 0 and at most 1; default: 0.7) [C] 0.7" in words
    assert "default: 25 steps" in words


def test_help_shows_values_of_the_given_recipe(tmp_path, shown):
    (tmp_path / "recipe.yaml").write_text("train: {epochs: 7}\n")
    assert "default: 7 epochs" in shown("run", "--config", str(tmp_path / "recipe.yaml"), "--help")


def test_commands_name_groups_and_options_that_exist():
    known = {"out", *groups(Config), *options(Config)}
    for command in COMMANDS.values():
        assert set(command.reads) <= known
    for name, option in options(Config).items():
        assert any(is_read(option, command.reads) for command in COMMANDS.values()), name


def test_usage_lists_every_command(shown):
    text = shown("--help")
    assert all(f"  {name} " in text for name in COMMANDS)


def test_a_reader_that_leaves_early_is_no_error():
    """As in `diffmix run --help | head`."""
    writer = subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", "run", "--help-all"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    writer.stdout.close()  # before the first line is written
    assert writer.stderr.read() == b""
    assert writer.wait() == 141
