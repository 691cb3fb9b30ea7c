"""One command that turns a GPU into figures: `python -m benchmarks.gpu --out DIR --part 1|2`.

`benchmarks/gpu.md` says what it needs. `table.py` lists what is measured, and a file for each
subject measures it. `runner.py` gives each section a process and a time limit of its own.
"""
