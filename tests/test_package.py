"""What is installed: the package's requirements, the lock file, and the style of the code."""

import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from runs import ROOT, tracked

import ranet_lib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
PINS = [line for line in LOCK.splitlines() if line and not line.startswith("#")]

PINNED = ["book", "lab", "test", "batch", "export", "cpu", "tensorflow"]  # the extras that the lock is made from

# What Google Colab had installed when these bounds were last looked at. None may be replaced there.
COLAB = {
    "filelock": "3.32.3",
    "ipywidgets": "7.7.1",
    "joblib": "1.5.3",
    "jsonschema": "4.26.0",
    "keras": "3.13.2",
    "matplotlib": "3.10.0",
    "numpy": "2.1.3",
    "pillow": "11.3.0",
    "pooch": "1.9.0",
    "requests": "2.32.4",
    "scikit-learn": "1.6.1",
    "scipy": "1.16.3",
    "tqdm": "4.67.3",
}


def test_the_library_stays_small():
    """No crowded room, and an upper storey that is read in an evening."""
    lines = {
        path.relative_to(ROOT / "ranet_lib").as_posix(): path.read_text(encoding="utf-8").count("\n")
        for path in (ROOT / "ranet_lib").rglob("*.py")
    }
    assert max(lines.values()) <= 400
    assert sum(lines.values()) <= 4_800
    plumbing = ("runs/", "show/", "files/", "_", "checks.py")
    assert sum(count for name, count in lines.items() if not name.startswith(plumbing)) <= 2_690


def test_version_is_in_one_place():
    assert version("ranet_lib") == ranet_lib.__version__
    assert "version" not in PROJECT


@pytest.mark.parametrize("line", PROJECT["dependencies"])
def test_package_installs_on_colab_without_changing_it(line):
    requirement = Requirement(line)
    assert COLAB[requirement.name] in requirement.specifier


def test_lock_is_pins_and_nothing_else():
    for pin in PINS:
        assert re.fullmatch(r"[a-z0-9-]+==[\w.]+( ; .+)?", pin)
    assert "://" not in LOCK


@pytest.mark.parametrize("line", [*PROJECT["dependencies"], *(line for name in PINNED for line in EXTRAS[name])])
def test_lock_has_a_version_of_every_requirement(line):
    requirement = Requirement(line)
    pins = [Requirement(pin) for pin in PINS]
    pinned = [str(pin.specifier).removeprefix("==") for pin in pins if pin.name == canonicalize_name(requirement.name)]
    assert pinned
    assert all(version in requirement.specifier for version in pinned)


def make(*words):
    return subprocess.run(["make", *words], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.skipif(sys.platform == "win32" or not shutil.which("make"), reason="needs make and find")
def test_make_hands_on_what_it_is_given_and_lists_its_commands():
    asked = make("-n", "experiments", "GROUP=small", "DATA=my data", "JOBS=2", "SNAKEMAKE_FLAGS=--profile p").stdout
    assert "batch.py small --data-dir 'my data'" in asked and "--jobs 2 -- --profile p" in asked
    assert "results.py 'my runs'" in make("-n", "results", "RUNS=my runs").stdout
    wrong = make("BACKEND=foo", "help")
    assert wrong.returncode == 2 and "received 'foo'" in wrong.stderr
    phony = set(re.search(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)[1].split())
    assert phony - set(re.findall(r"\bmake ([a-z-]+)", make("help").stdout)) == {"help"}


def test_style():
    check = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache", ROOT], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout


def test_no_run_is_among_the_files_of_the_project():
    """`make book` runs the experiment notebook, which leaves its run beside it; weights ship with the library alone."""
    if not (files := tracked()):
        pytest.skip("needs the repository")
    assert [name for name in files if name.endswith(".h5") and not name.startswith("ranet_lib/")] == []
    assert [name for name in files if name.endswith(("record.json", "history.csv"))] == []
