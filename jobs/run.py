"""The entry point of a submitted job:
`ray job submit --working-dir . -- python -m jobs.run --config FILE.yaml --out URI`.
"""

import sys

from jobs.own_modules import complaint


def main(arguments: list[str]) -> int:
    """`diffmix run` with these options. Gives the exit code."""
    if wrong := complaint():  # before the imports that it is about
        print(f"diffmix: {wrong}", file=sys.stderr)
        return 2
    from jobs import cli

    return cli.main(["run", *arguments])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
