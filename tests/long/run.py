"""Try faults by the hundred: scripts/test --long NAME... [--count N] [--record]."""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests")]

import damaged_bytes  # noqa: E402
import damaged_images  # noqa: E402
import disk_quotas  # noqa: E402
import every_resume  # noqa: E402
import generated_requests  # noqa: E402
import live_kills  # noqa: E402
import model_swaps  # noqa: E402
import overload  # noqa: E402
import power_loss  # noqa: E402
import rank_kills  # noqa: E402
import save_kills  # noqa: E402
import served_requests  # noqa: E402
import served_stops  # noqa: E402
import slow_senders  # noqa: E402
import stop_requests  # noqa: E402
import torch  # noqa: E402
from trial import Trial  # noqa: E402

TRIALS: dict[str, Trial] = {
    "save-kills": save_kills.TRIAL,
    "live-kills": live_kills.TRIAL,
    "power-loss": power_loss.TRIAL,
    "disk-quotas": disk_quotas.TRIAL,
    "damaged-bytes": damaged_bytes.TRIAL,
    "damaged-images": damaged_images.TRIAL,
    "every-resume": every_resume.TRIAL,
    "stop-requests": stop_requests.TRIAL,
    "rank-kills": rank_kills.TRIAL,
    "served-requests": served_requests.TRIAL,
    "served-stops": served_stops.TRIAL,
    "slow-senders": slow_senders.TRIAL,
    "overload": overload.TRIAL,
    "model-swaps": model_swaps.TRIAL,
    "generated-requests": generated_requests.TRIAL,
}
RESULTS = ROOT / "docs" / "notes" / "faults.json"
PAGE = ROOT / "docs" / "notes" / "faults.md"
CHANGED = (
    "status",
    "--short",
    "--",
    ".",
    *(f":!{path.relative_to(ROOT)}" for path in (RESULTS, PAGE)),
)
"""Whether anything but the record itself is not as committed."""
BEGIN, END = "<!-- made by scripts/test --long -->", "<!-- end of what was made -->"


def carry_out(name: str, count: int) -> dict[str, Any]:
    """Try a fault that often; what came of it."""
    failures: list[str] = []
    tried = 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for attempt in TRIALS[name].tries(Path(folder), count):
            tried += 1
            try:
                attempt()
            except Exception as error:  # whatever it is, the promise was not kept
                failures.append(f"{attempt}: {error!r}")
                print(f"{name} {tried}: {error!r}", flush=True)
            if tried % 100 == 0:
                print(f"{name}: {tried} tried, {len(failures)} failed", flush=True)
    return {
        "tried": tried,
        "failed": len(failures),
        "failures": failures[:20],
        "seconds": round(time.monotonic() - began),
        "commit": _git("rev-parse", "--short", "HEAD") + ("+" if _git(*CHANGED) else ""),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "torch": torch.__version__,
    }


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def table(results: dict[str, dict[str, Any]]) -> str:
    """The results as a table of the page."""
    lines = [
        "| fault | promise | tried | result | commit | date |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, trial in TRIALS.items():
        found = results.get(name)
        if found is None:
            lines.append(f"| {trial.fault} | {trial.promise} | 0 | not tried yet | | |")
            continue
        kept = "kept" if not found["failed"] else f"broken {found['failed']} times"
        lines.append(
            f"| {trial.fault} | {trial.promise} | {found['tried']:,} | {kept} | {found['commit']} "
            f"| {found['date']} |"
        )
    return "\n".join(lines)


def record(results: dict[str, dict[str, Any]]) -> None:
    """Add the results to the record, and write the page's table again."""
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known |= results
    RESULTS.write_text(json.dumps(known, indent=1) + "\n")
    before, rest = PAGE.read_text().split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(known)}\n\n{END}{after}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/test --long", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*TRIALS, []], help="faults; all if none")
    parser.add_argument("--count", type=int, help="tries of each; as many as promised if not given")
    parser.add_argument("--record", action="store_true", help="write the page and its record")
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for name in given.names or TRIALS:
        results[name] = carry_out(name, given.count or TRIALS[name].count)
        print(f"{name}: {json.dumps(results[name])}", flush=True)
        if given.record:
            record({name: results[name]})
    return 1 if any(result["failed"] for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
