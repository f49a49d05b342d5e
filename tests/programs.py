"""Programs that tests and benchmarks need and pip does not have."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import filelock
import pytest


def is_root():
    return hasattr(os, "geteuid") and os.geteuid() == 0


def find_programs(names, packages):
    """The paths of programs. Where apt can install their Debian packages, it does; else skip; in CI on Linux, fail."""
    if not all(map(find, names)) and is_root() and shutil.which("apt-get"):
        quiet = {"capture_output": True, "env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}}
        apt = ["apt-get", "-o", "DPkg::Lock::Timeout=600"]  # another process of these tests may be installing
        with filelock.FileLock(Path(tempfile.gettempdir(), "ranet-apt.lock")):
            subprocess.run([*apt, "update"], **quiet)
            subprocess.run([*apt, "install", "-y", "--no-install-recommends", *packages], **quiet)
    paths = [find(name) for name in names]
    if not all(paths):
        give_up = pytest.fail if os.environ.get("CI") and sys.platform == "linux" else pytest.skip
        give_up(f"needs {' and '.join(names)} (Debian: apt install {' '.join(packages)})")
    return paths


def find(name):
    beyond = ["/usr/sbin", "/sbin"]  # daemons are not on everyone's PATH
    return shutil.which(name, path=os.pathsep.join([os.environ["PATH"], *beyond]))


def start_chromium(program, driver, profile, *flags, logs=()):
    """A headless Chromium that keeps its files in the folder `profile`, and what it logs of the kinds `logs`.

    It opens only what we give it, so it does without its sandbox, which starts neither for root nor in many containers.
    """
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in ("--headless", "--disable-background-networking", "--disable-gpu", "--no-first-run", "--no-sandbox",
                 f"--user-data-dir={profile}", *flags):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", dict.fromkeys(logs, "ALL"))
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    browser.set_script_timeout(600)
    executor = browser.command_executor  # which gives up after two minutes whatever the script's time is
    executor.client_config.timeout = 900
    executor._conn = executor._get_connection_manager()
    return browser
