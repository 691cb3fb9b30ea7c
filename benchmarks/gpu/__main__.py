"""Measure this machine's GPU: figures, goals and verdicts in DIR/gpu.json and at most 40 lines.

    python -m benchmarks.gpu --out DIR --part 1
    python -m benchmarks.gpu --out DIR --part 2
    python -m benchmarks.gpu --out DIR --part 1 --rehearse

A part takes ten minutes at most. A rehearsal runs every section on a CPU with a model of no size:
its figures say nothing, and it shows that everything works.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from benchmarks.gpu import runner, table


def main() -> int:
    start = time.monotonic()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="for gpu.json and the logs")
    parser.add_argument("--part", type=int, choices=(1, 2), required=True)
    parser.add_argument("--rehearse", action="store_true", help="everything once, on a CPU")
    parser.add_argument("--only", nargs="*", metavar="SECTION", help="these sections of the part")
    options = parser.parse_args()
    sections = table.of_part(options.part)
    names = [section.name for section in sections]
    if unknown := set(options.only or ()) - set(names):
        parser.error(f"part {options.part} has no {min(unknown)}; it has {', '.join(names)}")
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    os.environ["HF_HUB_OFFLINE"] = "1"
    if options.rehearse:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.environ["OMP_NUM_THREADS"] = "1"  # several would wait for each other on a busy CPU
    printed = runner.quiet(out / f"part{options.part}.log")
    try:
        method, machine, versions = runner.start_method(options.rehearse)
    except RuntimeError as error:
        print(f"Nothing was measured: {error}; --rehearse needs none.", file=printed)
        return 1
    with tempfile.TemporaryDirectory(prefix="diffmix-gpu-") as scratch:
        kept = runner.Record(out, machine, versions, options.rehearse, printed)
        kept.show(
            f"part {options.part} on {', '.join(machine['gpus']) or machine['cpu']}, {method}"
        )
        kept.row("figure", "value", "goal", "verdict", "")
        used = time.monotonic() - start
        running = runner.Runner(scratch, options.rehearse, method, runner.PART_SECONDS - used)
        chosen = [section for section in sections if section.name in (options.only or names)]
        runner.run_part(chosen, running, kept)
    left_out = f"; {kept.lines - kept.shown} lines left out" if kept.lines > kept.shown else ""
    seconds = f"{time.monotonic() - start:.0f} s"
    print(f"{seconds}; all figures are in {kept.path}{left_out}", file=printed)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
