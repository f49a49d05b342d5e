"""How heavy the pages of the built book are, and how long a slow reader waits: `python benchmarks/pages.py`.

Each page is opened in Chromium with an empty cache, on one processor core that is slowed down, from a server on this
machine that compresses text as web hosts do. Measured are the bytes of the first view, that is of what is transferred
before anybody scrolls, and the seconds until text can be read and until the formulas stand.

    make book
    .venv/bin/python benchmarks/pages.py --output book/results/speed/NAME.json
"""

import argparse
import contextlib
import datetime
import gzip
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))
from programs import start_chromium  # noqa: E402

#: What web hosts compress.
TEXT = {".html", ".js", ".css", ".svg", ".json"}
SLOWDOWN = 4  # of the one core, as Lighthouse does for a phone of the middle class

READ = r"""
const done = arguments[arguments.length - 1];
const paint = performance.getEntriesByName("first-contentful-paint")[0];
const formulas = window.MathJax && MathJax.startup ? MathJax.startup.promise : Promise.resolve();
const seconds = {readable: paint.startTime / 1000};
formulas.then(() => {
  seconds.formulas = performance.now() / 1000;
  setTimeout(() => done(seconds), 300);
});
"""


class Handler(SimpleHTTPRequestHandler):
    """Files of a folder, text compressed."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            return self.send_error(404)
        content = path.read_bytes()
        self.send_response(200)
        if path.suffix in TEXT:
            content = gzip.compress(content, 6)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Type", self.guess_type(path))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def serve(folder):
    """The address of a server for a folder."""
    handler = lambda *args: Handler(*args, directory=folder)  # noqa: E731
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def slow_browser():
    """Chromium on one core, with the clock of its scripts and styles slowed down."""
    program = shutil.which("chromium") or shutil.which("google-chrome") or ""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})  # the browser inherits it
    try:
        with tempfile.TemporaryDirectory() as profile:
            browser = start_chromium(program, shutil.which("chromedriver"), profile, logs=("performance",))
            os.sched_setaffinity(0, cores)
            browser.set_window_size(412, 915)  # a phone
            browser.execute_cdp_cmd("Emulation.setCPUThrottlingRate", {"rate": SLOWDOWN})
            try:
                yield browser
            finally:
                browser.quit()
    finally:
        os.sched_setaffinity(0, cores)


def measure(browser, address):
    """Bytes, requests and seconds of one first view."""
    browser.get("about:blank")
    browser.execute_cdp_cmd("Network.clearBrowserCache", {})
    browser.get_log("performance")
    browser.get(address)
    found = browser.execute_async_script(READ)
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    loaded = [event["params"]["encodedDataLength"] for event in events if event["method"] == "Network.loadingFinished"]
    return {"bytes": int(sum(loaded)), "requests": len(loaded), **found}


def main():
    import run

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--site", type=Path, default=ROOT / "_build" / "html", help="the built book")
    parser.add_argument("--repeats", type=int, default=3, help="views of each page; the median counts (3)")
    parser.add_argument("--output", type=Path, help="a new JSON file; without it, the table is only printed")
    asked = parser.parse_args()
    if asked.output and asked.output.exists():
        parser.error(f"{asked.output} exists; results are not overwritten")
    if not (asked.site / "index.html").exists():
        parser.error(f"{asked.site} holds no built book; run `make book` first")
    names = [path.relative_to(asked.site).as_posix() for path in sorted(asked.site.glob("book/**/*.html"))]
    pages = []
    with serve(asked.site) as address, slow_browser() as browser:
        for name in names:
            views = [measure(browser, f"{address}/{name}") for _ in range(asked.repeats)]
            page = {key: round(statistics.median(view[key] for view in views), 2) for key in views[0]}
            pages.append({"page": name.removesuffix(".html"), **page})
            print(f"{page['bytes'] / 1e3:7.0f} kB {page['requests']:3.0f} files  text {page['readable']:.2f} s"
                  f"  formulas {page['formulas']:.2f} s  {name}", flush=True)  # fmt: skip
        version = browser.capabilities["browserVersion"]
    finished = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    record = {"browser": f"Chromium {version}", "slowdown": SLOWDOWN, "repeats": asked.repeats,
              "finished": finished, "pages": pages}  # fmt: skip
    if asked.output:
        run.save(asked.output, record)


if __name__ == "__main__":
    main()
