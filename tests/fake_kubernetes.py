"""A stand-in for Kubernetes: what kubectl needs of its API to make, see and delete jobs, which are run here."""

import http.server
import json
import os
import shlex
import signal
import subprocess
import threading
import time

from programs import find_programs

JOBS = "/apis/batch/v1/namespaces/default/jobs"

DISCOVERY = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": []},
    "/apis": {
        "kind": "APIGroupList",
        "groups": [{"name": "batch", "versions": [{"groupVersion": "batch/v1", "version": "v1"}]}],
    },
    "/apis/batch/v1": {
        "kind": "APIResourceList",
        "groupVersion": "batch/v1",
        "resources": [{
            "name": "jobs", "singularName": "job", "namespaced": True, "kind": "Job",
            "verbs": ["create", "get", "delete"],
        }],
    },
}  # fmt: skip


class Kubernetes:
    """A server that is up once made; `environment` leads kubectl to it, and `stop` ends it with its jobs.

    A job runs on this machine as its container would in a pod: the command alone, in the root folder, with nothing of
    this process's environment but the path.

    Attributes:
        manifests: every job that was made, as it was sent, by name.
        processes: those of the jobs that have not been deleted, by name.
        asked: the time when kubectl last asked for a job.
    """

    def __init__(self, folder):
        (kubectl,) = find_programs(["kubectl"], ["kubernetes-client"])
        self.manifests, self.processes, self.asked = {}, {}, 0
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        # It has no schema by which kubectl could check a manifest.
        shim = folder / "bin" / "kubectl"
        shim.parent.mkdir(parents=True)
        shim.write_text(
            f'#!/bin/sh\nif [ "$1" = create ]; then shift; set -- create --validate=false "$@"; fi\n'
            f'exec {shlex.quote(kubectl)} --server=http://127.0.0.1:{self.server.server_port} "$@"\n'
        )
        shim.chmod(0o755)
        self.environment = {
            **os.environ, "PATH": f"{shim.parent}:{os.environ['PATH']}", "HOME": str(folder),
            "KUBECONFIG": str(folder / "none"),
        }  # fmt: skip

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
        for name in self.manifests:
            self._kill(name)

    def _make(self, manifest):
        name = f"{manifest['metadata'].pop('generateName')}{len(self.manifests)}"
        manifest["metadata"] |= {"name": name, "namespace": "default"}
        self.manifests[name] = manifest
        (container,) = manifest["spec"]["template"]["spec"]["containers"]
        environment = {key: os.environ[key] for key in ("PATH", "PYTHONPATH") if key in os.environ}
        self.processes[name] = subprocess.Popen(
            container["command"], cwd="/", env=environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        return manifest

    def _kill(self, name):
        process = self.processes.pop(name, None)
        if process and process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return process is not None

    def _see(self, name):
        if name in self.processes:
            ended = self.processes[name].poll()
            condition = {"type": "Failed" if ended else "Complete", "status": "True"}
            self.asked = time.monotonic()
            return self.manifests[name] | {"status": {} if ended is None else {"conditions": [condition]}}

    def _handler(kubernetes):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                path = self.path.partition("?")[0]
                self.answer(DISCOVERY.get(path) or kubernetes._see(path.removeprefix(f"{JOBS}/")))

            def do_POST(self):
                manifest = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.answer(kubernetes._make(manifest) if self.path.partition("?")[0] == JOBS else None, 201)

            def do_DELETE(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                gone = kubernetes._kill(self.path.removeprefix(f"{JOBS}/"))
                self.answer({"kind": "Status", "status": "Success"} if gone else None)

            def answer(self, content, status=200):
                if content is None:
                    content, status = {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}, 404
                body = json.dumps({"apiVersion": "v1", **content}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *words):
                pass

        return Handler
