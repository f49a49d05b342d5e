"""What a release promises: its version, its licences and citation, its public names, and the workflows that make it."""

import importlib
import inspect
import json
import os
import pkgutil
import re
import subprocess
import sys
import tarfile
import zipfile

import pytest
import yaml
from runs import ROOT

import ranet_lib
from ranet_lib import _deprecated, masks, training

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))

# A name leaves this list one release after it has begun to warn; see CONTRIBUTING.md.
PUBLIC = {
    "answers": "of_record pack unpack",
    "checks": "choice number once path whole",
    "colab": "NO_GPU report",
    "downloads": "ARCHIVES Archive DownloadError cache_folder fetch unpickle_arrays",
    "drawings": "COLOURS STYLE draw",
    "explore": "DPI MOST_FRAMES SCRIPT explore",
    "blocks": """AttentionModule BatchNormalization Block INTERPOLATIONS LEARNING_RULES LocalMaskBranch MASK_ACTIVATIONS
        MASK_BRANCHES MaskBranch ResidualUnit TrunkBranch apply_chain apply_checkpointed build_chain channel convolution
        local_inner_filters mixed spatial walk""",
    "datasets": """Dataset Split augment check_name corrupt_labels load_dataset rotate_shift_mirror transition_matrix
        with_label_noise""",
    "figures": "COLOURS MASK_MAP STYLE curves errors image_grid masks_over_images save say show
    table",
    "masks": "MaskHistory attention_masks attention_modules localization localization_score mean_response"
    " reference_masks resize",
    "models": """DEFAULT_OPTIONS EXPORTS ModelSpec OPTIONS PRETRAINED check_options count_activations count_flops
        create_model describe export_model list_models list_pretrained load_pretrained model_spec pretrained_record
        save_pretrained without_weights""",
    "records": """HERE PUBLISHED book_folder contrast environment error_interval error_text make_record published_error
        read_record read_records recipe_text result_digest results_table scatter summary validate_record
        write_record""",
    "training": """AUGMENTATIONS Batches Checkpoint Diverged OPTIMIZERS PARAMETERS PRECISIONS Progress Recipe SCHEDULES
        SGD best_epoch check_devices check_parameters compile_model drop_checkpoint duration evaluate finish fit
        learning_rate list_profiles recipe run_name save_weights test_errors write_history write_text""",
}


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_stay(name):
    module = importlib.import_module(f"ranet_lib.{name}")

    def is_ours(value):
        made = inspect.isclass(value) or inspect.isfunction(value)
        return not inspect.ismodule(value) and (not made or value.__module__.startswith(module.__name__))

    found = {key for key, value in vars(module).items() if not key.startswith("_") and is_ours(value)}
    found = set(getattr(module, "__all__", found))
    on_its_way_out = getattr(getattr(module, "__getattr__", None), "names", set())  # it works still
    assert found | on_its_way_out == set(PUBLIC[name].split())


def test_every_module_without_an_underscore_is_listed():
    modules = {module.name for module in pkgutil.iter_modules(ranet_lib.__path__) if not module.name.startswith("_")}
    assert modules == set(PUBLIC)


def test_the_parameters_of_the_experiment_notebook_stay():
    assert set(training.PARAMETERS) == {
        "model", "model_options", "dataset", "data_dir", "profile", "seed", "label_noise", "epochs", "batch_size",
        "learning_rate", "mixed_precision", "devices", "output_dir",
    }  # fmt: skip


def test_the_places_of_a_record_stay():
    schema = json.loads(read("ranet_lib/record.schema.json"))
    always = "schema model dataset recipe seed label_noise history time environment"
    assert schema["required"] == always.split()
    assert set(schema["properties"]) == {*always.split(), "test", "localization", "failure"}


@pytest.fixture
def renamed(monkeypatch):
    """`masks` as a release would leave it that calls `mean_response` so, and no longer `response`."""
    change = _deprecated.names("ranet_lib.masks", {"response": "mean_response"}, since="0.2.0")
    monkeypatch.setattr(masks, "__getattr__", change, raising=False)
    return masks


def test_an_old_name_works_and_warns_where_it_is_used(renamed):
    message = "ranet_lib.masks.response is called ranet_lib.masks.mean_response since version 0.2.0"
    with pytest.warns(DeprecationWarning, match=message) as warned:
        assert renamed.response is masks.mean_response
    with pytest.warns(DeprecationWarning, match=message):
        from ranet_lib.masks import response
    assert response is masks.mean_response
    assert warned[0].filename == __file__
    with pytest.raises(AttributeError, match="module 'ranet_lib.masks' has no attribute 'reponse'"):
        renamed.reponse  # noqa: B018
    assert not hasattr(renamed, "responses")


def test_an_old_name_is_public_until_it_goes(renamed, monkeypatch):
    with pytest.raises(AssertionError):
        test_public_names_stay("masks")  # the list does not have it
    monkeypatch.setitem(PUBLIC, "masks", PUBLIC["masks"] + " response")
    test_public_names_stay("masks")


def test_an_old_argument_works_and_warns():
    @_deprecated.argument("images", "batch", since="0.2.0")
    def count(batch):
        """Counts."""
        return len(batch)

    assert count([1, 2]) == count(batch=[1, 2]) == 2 and count.__doc__ == "Counts."
    with pytest.warns(DeprecationWarning, match="count: 'images' is called 'batch' since version 0.2.0") as warned:
        assert count(images=[1, 2, 3]) == 3
    assert warned[0].filename == __file__
    with pytest.raises(TypeError, match="'batch' and its old name 'images'"):
        count(images=[1], batch=[2])


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
    here = {path.relative_to(ROOT).as_posix() for path in (ROOT / "ranet_lib").rglob("*") if path.is_file()}
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
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode == 0:  # there is a repository here
        unpacked = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert set(tracked.stdout.split()) <= unpacked
