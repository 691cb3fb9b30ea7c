"""The whole job from Python: personalize, mix and train on the embedded data set, on Ray.

    .venv/bin/python examples/ten_line_job.py

It does what `make demo` does, and takes as long.
"""

from dataclasses import replace

from engine.run import run
from jobs.options import load

if __name__ == "__main__":
    config = replace(load("jobs/recipes/nano/demo.yaml"), out="runs/ten_lines")
    summary = run(config)
    print(f"{summary['plan']['stored']} mixes are in {config.out}/mixes.")
    print(f"top-1 without mixes: {summary['baseline']['top1']:.3f}")
    print(f"top-1 with mixes: {summary['accuracy']['top1']:.3f}")
