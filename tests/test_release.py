"""What a release promises: its version, its licences and citation, its public names, and the workflows that make it."""

import importlib
import inspect
import re
import subprocess
import sys
import zipfile

import pytest
import yaml
from conftest import ROOT

import ranet_lib

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))

# A name leaves this list one release after it has begun to warn; see CONTRIBUTING.md.
PUBLIC = {
    "blocks": """AttentionModule BatchNormalization Block INTERPOLATIONS LEARNING_RULES LocalMaskBranch MASK_ACTIVATIONS
        MASK_BRANCHES MaskBranch ResidualUnit TrunkBranch apply_chain apply_checkpointed build_chain channel convolution
        local_inner_filters mixed spatial walk""",
    "datasets": """Dataset Split augment check_name corrupt_labels load_dataset rotate_shift_mirror transition_matrix
        with_label_noise""",
    "figures": "COLOURS MASK_MAP STYLE curves errors image_grid masks_over_images save show table",
    "masks": "attention_masks attention_modules localization localization_score mean_response reference_masks resize",
    "models": """DEFAULT_OPTIONS EXPORTS ModelSpec OPTIONS PRETRAINED check_options count_activations count_flops
        create_model describe export_model list_models list_pretrained load_pretrained model_spec pretrained_record
        save_pretrained without_weights""",
    "records": """HERE PUBLISHED environment error_interval error_text make_record published_error read_record
        read_records recipe_text result_digest results_table summary validate_record write_record""",
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
    assert found == set(PUBLIC[name].split())


def test_the_changelog_begins_with_this_version():
    first = re.search(r"^## (\S+)", read("CHANGELOG.md"), re.M)[1]
    assert first == ranet_lib.__version__
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
    called = {word for path in WORKFLOWS for line in re.findall(r"run: make (.*)", path.read_text()) for word in line.split()}
    assert called and called <= targets


def test_wheel_and_source_distribution(tmp_path):
    """Built as anyone would build them: small, and the source distribution is the whole project."""
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (wheel,), (source,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    assert wheel.stat().st_size < 10e6 and ranet_lib.__version__ in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.startswith("ranet_lib/weights/") and name.endswith(".npz") for name in names)
