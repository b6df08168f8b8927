"""Run every benchmark, each in its own process.

`python -m benchmarks [--short] [--out FOLDER]`
"""

import subprocess
import sys


NAMES = ("trainer", "augment", "mixing", "imports", "channels_last", "profile")

if __name__ == "__main__":
    failed = [
        name
        for name in NAMES
        if subprocess.run(
            [sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]], check=False
        ).returncode
    ]
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
