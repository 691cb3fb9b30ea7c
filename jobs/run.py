"""The entry point of a submitted job:
`ray job submit --working-dir . -- python -m jobs.run --config FILE.yaml --out URI`.
"""

import sys

from jobs.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
