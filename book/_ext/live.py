"""What the page `try_it` needs in the built site: the runtime, the weights, the network and the page's own script.

TensorFlow.js comes from two packages of `npm`, fetched once into `_build/npm`, of fixed versions and checksums. ONNX
Runtime Web was tried too: it runs from a file as well, but its smallest WebAssembly has 14 MB, and this has 0.4 MB.
Without `npm` the site is built all the same; the page then says that it cannot run here.
"""

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

PACKAGES = {
    "@tensorflow/tfjs-core@4.22.0": "e8f8aa285ad0237b901e7d79995a1450993cf11fb1b3cc02f09de167fdaf9496",
    "@tensorflow/tfjs-backend-wasm@4.22.0": "5cd6f5e18657c12fb94f4ec3dcef485c8c1a9ca39f3ef1d261c1cb13c1a231c3",
}
PARTS = "package/dist/tf-core.min.js", "package/dist/tf-backend-wasm.min.js"
WASM = "package/wasm-out/tfjs-backend-wasm-simd.wasm"
NAME = "attention_56-cifar10"
SOURCES = Path(__file__).resolve().parents[1] / "live"


def fetch(folder):
    """The packages as files in `folder`; raises an `OSError` with the reason if one cannot be had as it should be."""
    folder.mkdir(parents=True, exist_ok=True)
    archives = []
    for name, digest in PACKAGES.items():
        path = folder / (name.replace("@", "", 1).replace("/", "-").replace("@", "-") + ".tgz")
        if not path.exists():
            command = [shutil.which("npm") or "npm", "pack", "--silent", name]  # npm.cmd on Windows
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            if done.returncode or not path.exists():
                raise OSError(f"npm could not fetch {name}: {done.stderr.strip()[-200:]}")
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            path.unlink()
            raise OSError(f"{name} has other bytes than it should have")
        archives.append(path)
    return archives


def runtime(archives):
    """One script: both packages, and their WebAssembly as an address that needs no server."""
    texts, wasm = [], b""
    for path, part in zip(archives, PARTS):
        with tarfile.open(path) as archive:
            texts.append(archive.extractfile(part).read().decode())
            if part == PARTS[1]:
                wasm = archive.extractfile(WASM).read()
    address = f"data:application/wasm;base64,{base64.b64encode(wasm).decode()}"
    return "\n".join([*texts, f"window.liveWasm = {json.dumps(address)};"])


def weights():
    """The weights of the network that ships, by kind, in the order in which `network.js` asks for them."""
    from keras import layers

    from ranet_lib import blocks, runs

    network, record = runs.load_pretrained(NAME), runs.pretrained_record(NAME)
    kinds = {"convolution": layers.Conv2D, "normalization": layers.BatchNormalization, "dense": layers.Dense}

    def arrays(layer):
        return [
            [list(array.shape), base64.b64encode(array.astype("<f2").tobytes()).decode()]
            for array in layer.get_weights()
        ]

    kept = {
        "classes": record["dataset"]["classes"],
        "mean": record["dataset"]["mean"],
        "std": record["dataset"]["std"],
        "layers": {
            kind: [arrays(layer) for layer in blocks.walk(network) if isinstance(layer, of_kind)]
            for kind, of_kind in kinds.items()
        },
    }
    return f"window.liveWeights = {json.dumps(kept)};"


def write(app, exception):
    from ranet_lib import files

    if exception or app.builder.name != "html":
        return
    target = Path(app.outdir) / "_static" / "live"
    target.mkdir(parents=True, exist_ok=True)
    for name in ("network.js", "page.js"):
        (target / name).write_text((SOURCES / name).read_text(encoding="utf-8"), encoding="utf-8")
    try:
        archives = fetch(Path(app.srcdir) / "_build" / "npm")
    except OSError as error:
        print(f"the page `try_it` is built without the network: {error}", file=sys.stderr, flush=True)
        return
    # A change of the library or of this folder empties the site, so what is there is up to date.
    for name, content in {"runtime.js": lambda: runtime(archives), "weights.js": weights}.items():
        if not (target / name).exists():
            files.write_text(target / name, content())  # whole, or not at all


def setup(app):
    app.connect("build-finished", write)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
