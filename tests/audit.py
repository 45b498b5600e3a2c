"""Find known vulnerabilities in all installed packages: `python -m tests.audit`.

Ends with 1 if there is one. Where the advisories of PyPI cannot be had (a mirror of packages has
none) it says so and ends with 0: whether they can is tried on a release known to be vulnerable.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.emulator import REPOSITORY

AUDIT = REPOSITORY / "tests" / "requirements" / "audit.txt"
LOCKED = (
    REPOSITORY / "layers" / "stream_downloads" / "requirements.txt",
    *(
        REPOSITORY / "tests" / "requirements" / f"{name}.txt"
        for name in ("tools", "development", "emulator", "audit", "fuzz")
    ),
)
VULNERABLE = "urllib3==1.26.0\n"  # CVE-2021-33503 and others


def main() -> int:
    """Audit every lock file; 1 if anything in them is known to be vulnerable."""
    with tempfile.TemporaryDirectory() as folder:
        canary = Path(folder) / "requirements.txt"
        canary.write_text(VULNERABLE, encoding="utf-8")
        tried = audited(canary, "--no-deps")
    if "known vulnerabilit" not in tried.stdout + tried.stderr or tried.returncode != 1:
        print("NOT AUDITED: PyPI's advisories cannot be had from here.")
        return 0
    bad = 0
    for path in LOCKED:
        done = audited(path, "--strict", "--require-hashes")
        print(f"{path.relative_to(REPOSITORY)}: {done.stdout}{done.stderr}".strip())
        bad |= done.returncode
    return bad


def audited(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Return what pip-audit reports about a requirements file, from PyPI's advisories alone."""
    uv = ["uv", "run", "--quiet", "--isolated", "--no-project", "--with-requirements", str(AUDIT)]
    command = [*uv, "pip-audit", "--progress-spinner=off", "--disable-pip", *options]
    return subprocess.run(
        [*command, "-r", str(path)], capture_output=True, text=True, check=False, timeout=300
    )


if __name__ == "__main__":
    sys.exit(main())
