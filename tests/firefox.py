"""Firefox without a driver: it speaks WebDriver BiDi by itself (a web socket), and needs only a few words of it."""

import itertools
import json
import re
import subprocess
import time

import websocket
from programs import find


class Firefox:
    """A headless Firefox that goes to pages and evaluates JavaScript in them; `logged` has what its console said."""

    def __init__(self, program, profile):
        self.log = profile / "stderr.txt"
        command = [program, "--headless", "--no-remote", "--profile", profile, "--remote-debugging-port", "0"]
        with open(self.log, "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self.ids, self.logged, self.socket = itertools.count(1), [], None
        try:
            self.socket = websocket.create_connection(self._address() + "/session", timeout=600, suppress_origin=True)
            self.ask("session.new", capabilities={})
            self.ask("session.subscribe", events=["log.entryAdded"])
            self.tab = self.ask("browsingContext.getTree")["contexts"][0]["context"]
        except BaseException:
            self.quit()
            raise

    def _address(self, patience=600):
        end = time.monotonic() + patience
        while time.monotonic() < end:
            said = self.log.read_text(encoding="utf-8")
            if found := re.search(r"WebDriver BiDi listening on (ws://\S+)", said):
                return found[1]
            time.sleep(0.1)
        raise TimeoutError(f"Firefox did not start: {said[-500:]}")

    def ask(self, method, **parameters):
        number = next(self.ids)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (answer := json.loads(self.socket.recv())).get("id") != number:
            if answer.get("method") == "log.entryAdded":
                self.logged.append((answer["params"]["level"], answer["params"]["text"]))
        if answer["type"] == "error":
            raise RuntimeError(f"{method}: {answer['message']}")
        return answer["result"]

    def get(self, address):
        self.ask("browsingContext.navigate", context=self.tab, url=address, wait="complete")

    def run(self, script):
        """What the JavaScript expression `script` gives, or its promise, by way of JSON."""
        script = f"Promise.resolve({script}).then(value => JSON.stringify(value === undefined ? null : value))"
        asked = {"expression": script, "target": {"context": self.tab}, "awaitPromise": True}
        found = self.ask("script.evaluate", **asked)
        if found["type"] == "exception":
            raise RuntimeError(found["exceptionDetails"]["text"])
        return json.loads(found["result"]["value"])

    def until(self, script, patience=600):
        end = time.monotonic() + patience
        while not (found := self.run(script)):
            if time.monotonic() > end:
                raise TimeoutError(script)
            time.sleep(0.2)
        return found

    def quit(self):
        if self.socket:
            self.socket.close()
        self.process.kill()
        self.process.wait()


def find_firefox():
    return find("firefox-esr") or find("firefox")
