"""How soon an explorer answers in a live Jupyter: `python benchmarks/live.py`.

A real JupyterLab and a real browser, with no other host in reach. Each notebook that has explorers is opened, its cells
are run as a reader would run them, and the sliders of each explorer are moved by the arrow keys. Measured is the
time from the key to the changed picture on the screen: once to values whose picture the kernel still has to draw, and
once back over the same values, whose pictures it has kept.

    make .venv/lab.installed
    .venv/bin/python benchmarks/live.py --output book/results/speed/NAME.json
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))
from programs import start_chromium  # noqa: E402

#: Milliseconds, as the book promises them.
KEPT, DRAWN = 200, 1000

#: Runs in the page: whether its notebook is there, and a kernel that waits.
READY = """
const session = window.jupyterapp?.shell.currentWidget?.context?.sessionContext;
return Boolean(session?.isReady) && session.session?.kernel?.status === "idle";
"""
#: Runs in the page: the number of cells of code that have not ended.
WAITING = r"""
const prompts = [...document.querySelectorAll(".jp-CodeCell .jp-InputPrompt")].map(prompt => prompt.textContent);
return prompts.filter(text => /\[[* ]?\]/.test(text)).length;
"""
#: Runs in the page: from the next key in a box until its picture is another one and stands on the screen.
WATCH = """
const [box] = arguments;
const picture = () => box.querySelector("img")?.src;
const before = picture();
window.answered = undefined;
const pressed = () => {
  const from = performance.now();
  document.removeEventListener("keydown", pressed, true);
  const look = () => {
    if (picture() === before || !picture()) return requestAnimationFrame(look);
    box.querySelector("img").decode().then(() => requestAnimationFrame(
      () => setTimeout(() => { window.answered = performance.now() - from; })));
  };
  look();
};
document.addEventListener("keydown", pressed, true);
"""


class Server(NamedTuple):
    """A JupyterLab that runs."""

    address: str
    settings: dict  # variables of the environment that name its folders

    def trust(self, path):
        """Say that the outputs of a notebook may run scripts, as its author may."""
        command = [sys.executable, "-m", "jupyter", "trust", str(path)]
        subprocess.run(command, env={**os.environ, **self.settings}, check=True, capture_output=True)


@contextlib.contextmanager
def jupyter(folder):
    """A JupyterLab that shows `folder`, with settings of its own."""
    with tempfile.TemporaryDirectory() as home:
        # Nobody's own settings, and nobody's trust database.
        own = {f"JUPYTER_{name}_DIR": f"{home}/{name.lower()}" for name in ("CONFIG", "DATA", "RUNTIME")}
        command = [
            sys.executable, "-m", "jupyterlab", "--no-browser", "--port=0", "--ip=127.0.0.1", "--allow-root",
            "--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly",
            f"--ServerApp.root_dir={folder}",
        ]  # fmt: skip
        with open(f"{home}/log", "wb") as log:
            server = subprocess.Popen(command, env={**os.environ, **own}, stdout=log, stderr=log)
        try:
            yield Server(_address(server, Path(own["JUPYTER_RUNTIME_DIR"]), Path(home, "log")), own)
        finally:
            server.terminate()
            try:
                server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _address(server, runtime, log, patience=600):
    """Where a server that has just been started can be reached."""
    end = time.monotonic() + patience
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(OSError, ValueError):
            return json.loads((runtime / f"jpserver-{server.pid}.json").read_text())["url"]
        time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text(errors='replace')[-3000:]}")


class Notebook:
    """A notebook in the browser's window, with a kernel of its own."""

    def __init__(self, browser, server, name, patience=300):
        self.browser = browser
        browser.get(f"{server.address}doc/tree/{name}")
        self.wait("a kernel that waits", lambda: browser.execute_script(READY), patience)

    def wait(self, what, condition, patience=300):
        """Until `condition()` is true; its value."""
        return WebDriverWait(self.browser, patience, 0.1).until(lambda _: condition(), f"waited for {what}")

    def shown(self, selector):
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def run(self, patience=900):
        """Run all cells, as the command of the menu does, and wait for them to end."""
        self.browser.execute_script("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        self.wait("the cells", lambda: self.browser.execute_script(WAITING) == 0, patience)

    def explorers(self):
        """The boxes of all explorers on the page: panels of widgets, and frames that an executed notebook kept."""
        panels = self.shown(".jp-OutputArea-output .widget-vbox:has(img)")
        return [*panels, *self.shown(".jp-OutputArea-output .explore")]

    def errors(self):
        """What went wrong in the cells."""
        kinds = (f"[data-mime-type='application/vnd.jupyter.{kind}']" for kind in ("error", "stderr"))
        return [output.text for output in self.shown(", ".join(kinds))]

    def controls(self, box):
        """The handles of the sliders. (On a list, JupyterLab takes the arrow keys for moving between cells.)"""
        return box.find_elements(By.CSS_SELECTOR, ".noUi-handle, input[type=range]")

    def place(self, control):
        """Where a slider stands, and the last place that it has."""
        names = ("value", "max") if control.tag_name == "input" else ("aria-valuenow", "aria-valuemax")
        return tuple(float(control.get_attribute(name)) for name in names)

    def move(self, box, number=0, way="Right", patience=300):
        """Move a slider of an explorer by a key; milliseconds until the picture has changed."""
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", box)
        self.browser.execute_script(WATCH, box)
        self.controls(box)[number].send_keys(Keys.ARROW_RIGHT if way == "Right" else Keys.ARROW_LEFT)
        return self.wait("another picture", lambda: self.browser.execute_script("return window.answered"), patience)

    def close(self):
        """Leave nothing running."""
        self.browser.execute_script("return window.jupyterapp.serviceManager.sessions.shutdownAll()")


@contextlib.contextmanager
def local_browser(chromium, driver):
    """A headless Chromium that reaches this machine and no other."""
    flags = "--window-size=1400,1000", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    with tempfile.TemporaryDirectory() as profile:
        browser = start_chromium(chromium, driver, profile, *flags)
        try:
            yield browser
        finally:
            browser.quit()


def with_explorers(folder):
    """The notebooks of a folder that call `explore`."""
    return [path for path in sorted(folder.glob("*.ipynb")) if "show.explore(" in path.read_text(encoding="utf-8")]


def measure(notebook, box):
    """Milliseconds from key to picture, for each slider of an explorer: away to a new value, and back again."""
    drawn, kept = [], []
    for number, control in enumerate(notebook.controls(box)):
        at, last = notebook.place(control)
        away, back = ("Left", "Right") if at == last else ("Right", "Left")
        drawn.append(notebook.move(box, number, away))
        kept.append(notebook.move(box, number, back))
    return {"drawn": drawn, "kept": kept}


def main():
    import run

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("notebooks", type=Path, nargs="*", help="which notebooks (all chapters with explorers)")
    parser.add_argument("--output", type=Path, help="a new JSON file; without it, the table is only printed")
    asked = parser.parse_args()
    if asked.output and asked.output.exists():
        parser.error(f"{asked.output} exists; results are not overwritten")
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        # A copy: a browser that runs a notebook also saves it.
        shutil.copytree(ROOT / "book", Path(folder, "book"))
        programs = map(shutil.which, ("chromium", "chromedriver"))
        with jupyter(folder) as server, local_browser(*programs) as browser:
            for path in asked.notebooks or with_explorers(ROOT / "book"):
                notebook = Notebook(browser, server, f"book/{path.name}")
                notebook.run()
                for number, box in enumerate(notebook.explorers(), start=1):
                    times = {kind: [round(each) for each in list_] for kind, list_ in measure(notebook, box).items()}
                    measured.append({"notebook": path.stem, "explorer": number, **times})
                    print(f"drawn {times['drawn']} ms, kept {times['kept']} ms  {path.stem}, {number}", flush=True)
                notebook.close()
            version = browser.capabilities["browserVersion"]
    for kind, promised in (("drawn", DRAWN), ("kept", KEPT)):
        times = [each for row in measured for each in row[kind]]
        print(f"{kind}: median {statistics.median(times)} ms, longest {max(times)} ms; promised {promised} ms")
    finished = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    record = {"browser": f"Chromium {version}", "jupyterlab": importlib.metadata.version("jupyterlab"),
              "promised": {"drawn": DRAWN, "kept": KEPT}, "finished": finished, "explorers": measured}  # fmt: skip
    if asked.output:
        run.save(asked.output, record)


if __name__ == "__main__":
    main()
