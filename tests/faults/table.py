"""Makes the table of faults in docs/guarantees.md of the records that tests/faults has written:
`python tests/faults/table.py RECORDS.jsonl`.
"""

import json
import re
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "guarantees.md"
BLOCK = re.compile(r"(<!-- faults.*?-->\n).*?(<!-- end of faults -->)", re.DOTALL)


def table(records: list[dict]) -> str:
    """A Markdown table; of several records of a fault, the last one."""
    lines = ["| fault | lost | repeated | seconds | test |", "| --- | --- | --- | --- | --- |"]
    for record in {record["fault"]: record for record in records}.values():
        seconds = "-" if record["seconds"] is None else f"{record['seconds']:g}"
        cells = (
            record["fault"],
            record["lost"],
            record["repeated"],
            seconds,
            f"`{record['test']}`",
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def with_table(page: str, records: list[dict]) -> str:
    """The page with a new table between its marks."""
    return BLOCK.sub(lambda found: found[1] + table(records) + found[2], page)


if __name__ == "__main__":
    kept = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    PAGE.write_text(with_table(PAGE.read_text(), kept))
