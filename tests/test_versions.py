"""The library with other versions of its packages than the lock's: those of Google Colab, and the oldest allowed."""

import os
import re
import shutil
import sys

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from runs import ROOT
from test_colab import find_uv, pinned, python_313, run
from test_package import EXTRAS, PROJECT

NEEDED = [*PROJECT["dependencies"], *EXTRAS["cpu"]]
NAMES = [need.name for need in map(Requirement, NEEDED) if need.marker is None or need.marker.evaluate()]
LIBRARY = [
    "blocks", "models", "training", "recipes", "parameters", "masks", "pretrained", "datasets", "cifar", "folder",
    "downloads", "figures", "drawings",
]  # fmt: skip


@pytest.fixture(scope="module", params=["colab", "oldest"])
def other_versions(request, tmp_path_factory):
    """A Python that has those versions and what runs tests, but not this package: it finds the project's folder."""
    if not (uv := find_uv()):
        pytest.skip("needs uv, which alone resolves to the oldest versions")
    folder = tmp_path_factory.mktemp(request.param)
    here, kept = folder / "env" / "bin" / "python", folder / "kept.txt"
    if request.param == "colab":
        kept.write_text("\n".join(pinned()))
        if not (python := python_313()):
            pytest.skip("needs Python 3.13, as Colab has it")
        chosen = ["tensorflow" if name == "tensorflow-cpu" else name for name in NAMES]
        chosen += ["--constraint", kept]
    else:
        names = ("python3.12", "python3.11")
        older = [sys.executable] if sys.version_info < (3, 13) else [*filter(None, map(shutil.which, names))]
        if not (python := next(iter(older), None)):
            pytest.skip("needs Python 3.11 or 3.12: the oldest numpy knows no newer one")
        chosen = ["--resolution", "lowest-direct", *NEEDED]
    run(uv, "venv", "--quiet", "--python", python, folder / "env")
    install = (uv, "pip", "install", "--quiet", "--python", here)
    run(*install, *chosen)
    found = run(uv, "pip", "freeze", "--quiet", "--python", here)
    if request.param == "oldest":
        installed = dict(line.split("==") for line in found.splitlines())
        for need in map(Requirement, NEEDED):
            if need.name in NAMES:
                (least,) = [bound.version for bound in need.specifier if bound.operator == ">="]
                assert Version(installed[need.name]).release[:2] == (*Version(least).release, 0)[:2]
        kept.write_text(found)
    run(*install, "pytest", "pyyaml", "--constraint", kept)
    return here


def passes(python, *words):
    tests = [ROOT / "tests" / f"test_{module}.py" for module in LIBRARY]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    options = ("--quiet", "-p", "no:cacheprovider", "-W", "default")  # other versions may warn of other things
    said = run(python, "-m", "pytest", *options, *words, *tests, cwd=ROOT, env=environment)
    assert int(re.search(r"(\d+) passed", said)[1]) > 5, said


@pytest.mark.slow
def test_what_is_saved_comes_back(other_versions):
    passes(other_versions, "-k", "saved_and_loaded or shipped_weights or cut_off")


@pytest.mark.colab
def test_the_library_passes_its_tests(other_versions):
    passes(other_versions)
