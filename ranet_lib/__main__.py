"""What make does, where there is no make: `python -m ranet_lib book`, `test` or `train FOLDER`, in the repository."""

import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ROOT / "book" / "without_make.py"

if __name__ == "__main__":
    if not COMMANDS.exists():
        sys.exit(f"python -m ranet_lib needs the repository; this library is installed in {ROOT}, without it")
    runpy.run_path(str(COMMANDS), run_name="__main__")
