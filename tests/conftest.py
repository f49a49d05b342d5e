"""What the tests share: their order, the built site, and a browser without a network."""

import os
import shutil
import subprocess
import sys

import pytest
from runs import ROOT, Runs

# These modules run last, in this order: each takes longer than all the others together.
SLOW_MODULES = ["test_notebooks.py", "test_batch.py", "test_browser.py"]

CHROMIUM_FLAGS = [
    "--headless",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # no name has an address: the network is off
]


def pytest_collection_modifyitems(items):
    """Put the slow modules last."""
    rank = {name: place for place, name in enumerate(SLOW_MODULES, start=1)}
    items.sort(key=lambda item: rank.get(item.path.name, 0))


@pytest.fixture(autouse=True)
def seed():
    """The same random weights in every run of a test."""
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(0)


@pytest.fixture(scope="session", autouse=True)
def background(request, tmp_path_factory):
    """The long notebook runs that the selected tests will look at, begun at once."""
    from test_book import PAGES, named

    selected = {item.name for item in request.session.items if item.path.name == "test_notebooks.py"}
    pages = [path for path in PAGES if f"test_page_runs[{named(path)}]" in selected]
    train = any("test_page_runs" not in name for name in selected)
    runs = Runs(tmp_path_factory.mktemp("notebooks"), pages, train)
    yield runs
    runs.stop()


@pytest.fixture(scope="session")
def site():
    """The folder of the built site; `make book` builds it unless it is newer than all it is made of."""
    build = subprocess.run(["make", "book"], cwd=ROOT, capture_output=True, text=True)
    assert build.returncode == 0, f"make book failed:\n{build.stdout[-4000:]}\n{build.stderr[-8000:]}"
    return ROOT / "_build" / "html"


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A headless Chromium that records its console and every request it makes, and can reach no other host."""
    from selenium import webdriver

    chromium, driver = find_chromium()
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in CHROMIUM_FLAGS:
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium's sandbox does not start for root
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    browser.set_script_timeout(60)
    yield browser
    browser.quit()


def find_chromium():
    """The paths of Chromium and its driver. Where apt can install them, it does; else skip, or fail in CI."""
    names = ["chromium", "chromedriver"]
    if not all(map(shutil.which, names)) and os.geteuid() == 0 and shutil.which("apt-get"):
        quiet = {"capture_output": True, "env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}}
        subprocess.run(["apt-get", "update"], **quiet)
        subprocess.run(["apt-get", "install", "-y", "--no-install-recommends", "chromium", "chromium-driver"], **quiet)
    paths = [shutil.which(name) for name in names]
    if not all(paths):
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up("needs chromium and chromedriver (Debian: apt install chromium chromium-driver)")
    return paths
