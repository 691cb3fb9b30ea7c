"""What `quiet` keeps from the screen, in a process of its own: it changes file descriptors."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import logging, os, sys, threading, warnings
from diffmix.errors import UserError
from engine.display import terminal

try:
    with terminal.quiet({verbose}):
        os.write(2, b"raylet noise\\n")
        print("library noise", file=sys.stderr)
        logging.getLogger("ray.data").warning("ray noise")
        warnings.warn("python noise")
        logging.getLogger("engine.session").warning("ours")
        logging.getLogger("engine.session").info("not worth it")
        terminal.say("the display")
        ray = threading.Thread(target=print, args=["raylet warning"], name="ray_listen")
        ray.start()
        ray.join()
        print("the result")
        {then}
except BaseException as error:
    print(type(error).__name__, file=sys.stderr)
print("after", file=sys.stderr)
os.write(2, b"after too\\n")
print(terminal.log_path())
"""


def run(then: str = "pass", verbose: bool = False) -> tuple[list[str], list[str]]:
    """Lines of standard output and of standard error."""
    program = PROGRAM.format(then=then, verbose=verbose)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    return done.stdout.splitlines(), done.stderr.splitlines()


def test_only_the_display_and_our_own_warnings_are_shown():
    out, shown = run()
    assert shown == ["warning: ours", "the display", "after", "after too"]
    assert out == ["the result", "None"]


@pytest.mark.parametrize("error", ["UserError('a sentence')", "KeyboardInterrupt()"])
def test_a_user_error_and_an_interruption_leave_no_file(error):
    out, shown = run(f"raise {error}")
    assert shown[2:] == [error.partition("(")[0], "after", "after too"]
    assert out == ["the result", "None"]


def test_after_a_defect_the_file_has_what_was_not_shown():
    out, shown = run("raise ValueError('broken')")
    assert shown[2:] == ["ValueError", "after", "after too"]
    text = Path(out[-1]).read_text()
    Path(out[-1]).unlink()
    assert "raylet warning" in text
    for noise in ("raylet noise", "library noise", "ray noise", "python noise"):
        assert noise in text


def test_verbose_shows_everything():
    _, shown = run(verbose=True)
    for noise in ("raylet noise", "library noise", "ray noise", "the display", "ours"):
        assert noise in shown


def test_a_replaced_standard_error_is_where_the_display_prints(capsys):
    from engine.display import terminal

    with terminal.quiet():
        print("noise", file=sys.stderr)
        terminal.say("the display")
    assert capsys.readouterr().err == "the display\n"


INTERRUPTED = """
import os, signal, sys, threading
from engine.display import terminal

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored below a shell's background job
{before}
try:
    with terminal.interruptible(), terminal.quiet():
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(60)
except KeyboardInterrupt:
    print("cleaning up", flush=True)
    {then}
"""


def interrupted(then: str, before: str = "") -> tuple[int, str, str]:
    program = [sys.executable, "-c", INTERRUPTED.format(then=then, before=before)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=50)
    return done.returncode, done.stdout, done.stderr


def test_the_first_ctrl_c_ends_cleanly():
    code, out, err = interrupted("sys.exit(7)")
    assert (code, out) == (7, "cleaning up\n")
    assert err == "stopping; Ctrl-C again ends at once\n"


def test_sigterm_does_not_break_what_closes_after_ctrl_c():
    code, out, _ = interrupted("os.kill(os.getpid(), signal.SIGTERM); print('closed')")
    assert (code, out) == (0, "cleaning up\nclosed\n")


def test_ctrl_c_ends_at_once_where_sigterm_came_before():
    code, out, _ = interrupted("", "signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    assert (code, out) == (130, "")


def test_the_second_ctrl_c_ends_at_once():
    again = "os.kill(os.getpid(), signal.SIGINT); threading.Event().wait(60)"
    code, out, err = interrupted(again)
    assert (code, out) == (130, "cleaning up\n")
    assert err.endswith("diffmix: ended at once; the same command resumes.\n")
