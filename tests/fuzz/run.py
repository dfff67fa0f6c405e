"""`make fuzz`: every target for its share of the time, then the served API; a table, one JSON line.

Args, from the environment: FUZZ_SECONDS of all targets together (120), FUZZ_API_SECONDS (90).
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import start_server, stop_server
from tests.fuzz.corpus import write

# Pictures are the widest door.
SHARES = {"pictures": 10, "bodies": 4, "forms": 2, "messages": 2, "receipts": 1, "urls": 1}
LIMITS = ("-timeout=10", "-rss_limit_mb=3000", "-max_len=65536", "-print_final_stats=1")
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_schema_conformance"
)
# Every request must end soon.
SMALL = {
    "FCS_MAX_SAMPLES": "64",
    "FCS_DEFAULT_SAMPLES": "32",
    "FCS_MAX_SELECTION_SAMPLES": "16",
    "FCS_DEFAULT_SELECTION_SAMPLES": "10",
    "FCS_MAX_TIMEOUT_MS": "5000",
    "FCS_DEFAULT_TIMEOUT_MS": "5000",
}
BUILD = Path("build/fuzz")


def target(name: str, seconds: int) -> dict[str, object]:
    """One target under atheris, from fresh seeds."""
    corpus = BUILD / name
    write(corpus, name)
    command = [sys.executable, "-m", "tests.fuzz.one", name, str(corpus), *LIMITS]
    command += [f"-max_total_time={seconds}", f"-artifact_prefix={BUILD}/{name}-"]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace")
    stats = dict(re.findall(r"stat::(\w+):\s+(\d+)", ran.stderr))
    if ran.returncode:
        print(ran.stderr[-4000:])
    return {
        "name": name,
        "runs": int(stats.get("number_of_executed_units", 0)),
        "seconds": seconds,
        "peak_mb": int(stats.get("peak_rss_mb", 0)),
        "failed": ran.returncode != 0 or "number_of_executed_units" not in stats,
    }


def api(seconds: int) -> dict[str, object]:
    """Whatever /openapi.json says may be sent, and what it says may not."""
    limits = {
        "FCS_MAX_SAMPLES": "64",
        "FCS_MAX_SELECTION_SAMPLES": "16",
        "FCS_MAX_TIMEOUT_MS": "5000",
        "FCS_DEFAULT_SAMPLES": "32",
        "FCS_DEFAULT_SELECTION_SAMPLES": "10",
        "FCS_DEFAULT_TIMEOUT_MS": "5000",
        "FCS_DEFAULT_VOTES": "50",
    }
    server = start_server(environment=limits, fresh=True)
    report = BUILD / "api.json"
    report.unlink(missing_ok=True)
    began = time.monotonic()
    try:
        ran = subprocess.run(
            [
                *(str(Path(sys.executable).parent / "schemathesis"), "run"),
                f"{server.rest}/openapi.json",
                *("--checks", CHECKS, "--max-time", str(seconds), "--request-timeout", "30"),
                *("--continue-on-failure", "--no-color", "--warnings", "off"),
                *("--report", "ndjson", "--report-ndjson-path", str(report)),
            ],
            check=False,
            capture_output=True,
            text=True,
        )
        alive = server.process.poll() is None
    finally:
        stop_server(server)
    if ran.returncode:
        print(ran.stdout[-8000:], ran.stderr[-2000:])
    found = re.search(r"(\d+) generated", ran.stdout)
    return {
        "name": "api",
        "runs": int(found[1]) if found else 0,
        "seconds": round(time.monotonic() - began),
        "peak_mb": 0,
        "failed": ran.returncode != 0 or not alive or found is None,
    }


def main() -> int:
    """1 where anything was found."""
    BUILD.mkdir(parents=True, exist_ok=True)
    seconds = int(os.environ.get("FUZZ_SECONDS", "120"))
    rows = []
    wanted = sys.argv[1:] or [*SHARES, "api"]
    for name in wanted:
        if name == "api":
            row = api(int(os.environ.get("FUZZ_API_SECONDS", "90")))
        else:
            row = target(name, max(1, seconds * SHARES[name] // sum(SHARES.values())))
        rows.append(row)
        found = "FAILED" if row["failed"] else "nothing found"
        print(f"{name:10} {row['runs']:>10} runs {row['seconds']:>5} s  {found}", flush=True)
    failed = [row["name"] for row in rows if row["failed"]]
    print(
        f"fuzz: {sum(int(str(r['runs'])) for r in rows)} runs, {len(failed)} of {len(rows)} failed"
    )
    print(json.dumps({"fuzz": rows, "failed": failed}))
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
