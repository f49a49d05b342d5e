"""What the tests share: their order, the notebooks run in the background, and the built site."""

import os
import sys

import pytest
from opened import browser, explorer, in_browsers, pages  # noqa: F401, fixtures
from runs import SET_HERE, Runs, build_site

# The tests and the notebooks beside them share the cores. More threads for each would only wait for one another.
for threads in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"):
    if threads not in os.environ:
        os.environ[threads] = "1"
        os.environ[SET_HERE] = f"{os.environ.get(SET_HERE, '')} {threads}"

# These modules run last, in this order. Three look at what goes on in the background, which builds the site between
# them; the others take about as long.
LAST_MODULES = ["test_notebooks.py", "test_training.py", "test_masks.py", "test_browser.py", "test_explorers.py"]


def pytest_collection_modifyitems(items):
    rank = {name: place for place, name in enumerate(LAST_MODULES, start=1)}
    items.sort(key=lambda item: rank.get(item.path.name, 0))


@pytest.fixture(autouse=True)
def seed():
    """The same random weights in every run of a test."""
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(0)


@pytest.fixture
def shown(monkeypatch):
    """What was displayed, as pairs of data and metadata."""
    import IPython.display

    calls = []
    monkeypatch.setattr(
        IPython.display, "display", lambda data, raw, metadata=None: calls.append((data, metadata or {}))
    )
    return calls


@pytest.fixture(scope="session", autouse=True)
def background(request, tmp_path_factory):
    """The notebook runs that the selected tests will look at, begun at once, and the site if it takes them all."""
    selected = {item.name for item in request.session.items if item.path.name == "test_notebooks.py"}
    if not selected:
        yield
        return
    from test_book import PAGES
    from times import named

    chosen = [path for path in PAGES if f"test_page_runs[{named(path)}]" in selected]
    train = any("default_run" in item.fixturenames for item in request.session.items)
    build = train and len(chosen) == len(PAGES) and any("site" in item.fixturenames for item in request.session.items)
    runs = Runs(tmp_path_factory.mktemp("notebooks"), chosen, train, build)
    yield runs
    runs.stop()


@pytest.fixture(scope="session")
def site(background):
    """The folder of the built site."""
    return (background and background.site.result()) or build_site()
