"""Shell completion, in a real bash."""

import shutil
import subprocess

import pytest

from diffmix.config import Config
from diffmix.options import options
from jobs.cli import COMMANDS, main
from jobs.completion import script

ASK = """
source {script}
COMP_WORDS=({words}) COMP_CWORD={place}
_diffmix
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def complete(tmp_path, capsys):
    """`complete(*words)` gives what bash suggests for the last word."""
    if not shutil.which("bash"):
        pytest.skip("no bash here")
    assert main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)

    def ask(*words: str) -> list[str]:
        quoted = " ".join(f"'{word}'" for word in ("diffmix", *words))
        text = ASK.format(script=tmp_path / "script", words=quoted, place=len(words))
        done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True)
        return [line for line in done.stdout.splitlines() if line]

    return ask


def test_commands_options_and_choices(complete):
    assert complete("re") == ["report"]
    assert set(complete("")) == set(COMMANDS)
    assert complete("run", "--mix.gam") == ["--mix.gamma"]
    assert complete("run", "--run.mode", "") == ["overlapped", "staged"]
    assert complete("run", "--run.mode", "st") == ["staged"]
    assert complete("run", "--out", "") == [], "bash then completes files"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_option_is_in_every_script(shell):
    text = script(shell, COMMANDS)
    assert all(name in text for name in options(Config))
    assert all(name in text for name in COMMANDS)


@pytest.mark.parametrize("words", [["tcsh"], []])
def test_another_shell_is_one_sentence(words, capsys):
    assert main(["completion", *words]) == 2
    assert "takes one of bash, fish, zsh, but got" in capsys.readouterr().err
