"""The code blocks of docs/python.md run, and print what the page says that they print."""

import contextlib
import io
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)


def blocks() -> list[tuple[str, str]]:
    """(code, what it prints) of each block, in order."""
    return BLOCK.findall((ROOT / "docs" / "python.md").read_text(encoding="utf-8"))


def test_the_ten_line_job_is_the_example():
    code, _ = blocks()[0]
    example = (ROOT / "examples" / "ten_line_job.py").read_text(encoding="utf-8")
    assert code.strip() in example


def test_the_other_blocks_run_without_ray(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "docs.python"}
    others = blocks()[1:]
    assert len(others) >= 6
    for code, promised in others:
        assert "ray" not in code
        assert "engine" not in code
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "docs/python.md", "exec"), names)
        assert printed.getvalue() == promised, code
