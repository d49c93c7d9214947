"""README.md as a package index shows it: there, links into the checkout lead nowhere.

With `Repository` among the project's URLs they lead into the repository, as does the
image. Without, as in a checkout that is published nowhere, links become plain text.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

RELATIVE = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)]*)\)")


def for_index(readme: str, repository: str | None) -> str:
    """The text with absolute links only."""

    def link(found: re.Match[str]) -> str:
        image, text, path = found.groups()
        if repository:
            place = f"{repository.rstrip('/')}/{'raw' if image else 'blob'}/HEAD"
            return f"{image}[{text}]({place}/{path})"
        return "" if image else text

    return RELATIVE.sub(link, readme)


class Readme(MetadataHookInterface):
    def update(self, metadata: dict[str, Any]) -> None:
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        text = for_index(text, metadata["urls"].get("Repository"))
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
