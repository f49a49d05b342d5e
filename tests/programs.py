"""Programs that tests need and pip does not have."""

import os
import shutil
import subprocess

import pytest


def find_programs(names, packages):
    """The paths of programs. Where apt can install their Debian packages, it does; else skip, or fail in CI."""
    if not all(map(find, names)) and os.geteuid() == 0 and shutil.which("apt-get"):
        quiet = {"capture_output": True, "env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}}
        subprocess.run(["apt-get", "update"], **quiet)
        subprocess.run(["apt-get", "install", "-y", "--no-install-recommends", *packages], **quiet)
    paths = [find(name) for name in names]
    if not all(paths):
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up(f"needs {' and '.join(names)} (Debian: apt install {' '.join(packages)})")
    return paths


def find(name):
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")  # daemons are not on everyone's PATH
