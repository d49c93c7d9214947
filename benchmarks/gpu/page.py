"""A record as Markdown."""

from __future__ import annotations

from typing import Any


def line(check: dict[str, Any]) -> str:
    """One check in words."""
    state = {True: "holds", False: "FAILS", None: ""}[check["holds"]]
    value = "" if check["value"] is None else f"{check['value']:.4g} {check['unit']}".strip()
    words = [value, f"({check['limit']})" if check["limit"] else "", state, check["note"]]
    return f"{check['name']}: " + " ".join(word for word in words if word)


def failed(record: dict[str, Any]) -> bool:
    """Whether a check does not hold, or a part did not reach its end."""
    parts = record["parts"].values()
    return any(
        part["ended"] != "done" or any(check["holds"] is False for check in part["checks"])
        for part in parts
    )


def written(record: dict[str, Any]) -> str:
    """The whole record."""
    machine = record["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    size = " (quick: small models, few rounds)" if record["quick"] else ""
    lines = [
        f"# {machine['device']}, {machine['date'][:10]}",
        "",
        f"`scripts/gpu` at commit {machine['commit']} on {machine['device']}{size}; "
        f"{machine['processor']}, {machine['cores']} cores; {versions}.",
    ]
    for name, part in record["parts"].items():
        lines += ["", f"## {name}: {part['ended']}, {part['seconds']} s", ""]
        if part["checks"]:
            lines += ["| what | value | expected | |", "| --- | --- | --- | --- |"]
        for check in part["checks"]:
            value = "" if check["value"] is None else f"{check['value']:.4g} {check['unit']}"
            state = {True: "holds", False: "**fails**", None: ""}[check["holds"]]
            last = " ".join(word for word in (state, check["note"]) if word)
            lines.append(f"| {check['name']} | {value.strip()} | {check['limit']} | {last} |")
        if part["errors"]:
            lines += ["", "```", *part["errors"], "```"]
    return "\n".join(lines) + "\n"
