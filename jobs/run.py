"""`python -m jobs.run`: what `ray job submit --working-dir . -- python -m jobs.run --config ...
--out ...` runs.
"""

import sys

from jobs.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
