"""Write the table of published files into notes/released.md: `python docs/published.py`."""

from __future__ import annotations

import re
from pathlib import Path

from beit.weights.published import PUBLISHED, Published

PAGE = Path(__file__).parent / "notes" / "released.md"
UNILM = "https://github.com/microsoft/unilm/blob/master"
MARKS = "<!-- published: begin -->\n", "\n<!-- published: end -->"


def command(file: Published) -> str:
    """The command that measures what is expected of a file."""
    ade20k = file.kind == "segmenter"
    data = "ADEChallengeData2016 --layout ade20k" if ade20k else "imagenet/val"
    return f"beit evaluate {file.name} --data {data}"


def cells(file: Published) -> tuple[str, ...]:
    known = f"begins with `{file.hash_start}`" if file.hash_start else ""
    if file.sha256:
        measured = f"[{file.hash_source}](https://github.com/{file.hash_source})"
        known = f"`{file.sha256}`, measured by {measured}"
    metric = "mIoU" if file.kind == "segmenter" else "top-1"
    return (
        f"[{file.name}]({file.url})" if file.url else file.name,
        f"{file.family}, {file.kind}",
        f"{file.backbone}, {file.size} px".removeprefix(", "),
        known,
        f"{file.expected} % {metric}" if file.expected else "",
        f"[{file.source}]({UNILM}/{file.source})" if file.source else "",
        f"`{command(file)}`" if file.expected else "",
    )


def table() -> str:
    rows = [
        "| file | what | size | SHA-256 | expected | stated in | command |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    return "\n".join([*rows, *("| " + " | ".join(cells(file)) + " |" for file in PUBLISHED)])


if __name__ == "__main__":
    begin, end = map(re.escape, MARKS)
    page = PAGE.read_text()
    PAGE.write_text(re.sub(f"(?<={begin}).*(?={end})", lambda _: table(), page, flags=re.DOTALL))
