"""What a release promises: its version, its licences and citation, its public names, and the workflows that make it."""

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile

import pytest
import yaml
from runs import ROOT, tracked

import ranet_lib
from ranet_lib import runs

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))

def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_parameters_of_the_experiment_notebook_stay():
    assert set(runs.PARAMETERS) == {
        "model", "model_options", "dataset", "data_dir", "profile", "seed", "label_noise", "epochs", "batch_size",
        "learning_rate", "mixed_precision", "devices", "output_dir",
    }  # fmt: skip


def test_the_places_of_a_record_stay():
    schema = json.loads(read("ranet_lib/runs/record.schema.json"))
    always = "schema model dataset recipe seed label_noise history time environment"
    assert schema["required"] == always.split()
    assert set(schema["properties"]) == {*always.split(), "test", "localization", "failure"}


def test_the_changelog_begins_with_this_version():
    first = re.search(r"^## (\S+)", read("CHANGELOG.md"), re.M)[1]
    assert first == ranet_lib.__version__, "begin CHANGELOG.md with a heading of the version in ranet_lib/__init__.py"
    assert "version:" not in read("CITATION.cff").replace("cff-version:", "")


def test_the_citation_names_the_book_and_the_paper():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["title"] == yaml.safe_load(read("_config.yml"))["title"]
    assert [author["family-names"] for author in citation["references"][0]["authors"]][0] == "Wang"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_follow_githubs_schema(path):
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(path)]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_workflows_call_targets_of_make():
    targets = set(re.findall(r"^([\w-]+):", read("Makefile"), re.M))
    lines = [line for path in WORKFLOWS for line in re.findall(r"run: make (.*)", path.read_text(encoding="utf-8"))]
    words = {word for line in lines for word in line.split()}
    settings = {word.partition("=")[0] for word in words if "=" in word}
    called = {word for word in words if "=" not in word}
    assert called and called <= targets
    assert all(re.search(rf"^# .*\b{name}:", read("Makefile"), re.M) for name in settings)


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The wheel and the source distribution, built as anyone would build them."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, source


def test_the_wheel_is_small_and_has_licence_weights_and_schema(distributions):
    wheel, _ = distributions
    assert wheel.stat().st_size < 10e6 and ranet_lib.__version__ in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    here = {path.relative_to(ROOT).as_posix() for path in (ROOT / "ranet_lib").rglob("[!.]*") if path.is_file()}
    assert {name for name in here if "__pycache__" not in name} == {name for name in names if "dist-info" not in name}
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_the_source_distribution_passes_its_tests_with_no_repository_around_it(distributions, tmp_path):
    _, source = distributions
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    environment = os.environ | {"PYTHONPATH": str(folder)}
    words = ["-m", "pytest", "-q", "tests/test_address.py", "tests/test_records.py", "tests/test_grid.py"]
    done = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    unpacked = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(tracked()) <= unpacked
