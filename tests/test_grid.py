"""The grid of experiments: that it lists what was asked, and that a slip in it is refused with its line."""

import collections
import shutil

import grid
import nbformat
import papermill
import pytest
import yaml
from machine import started
from runs import PATIENT, ROOT

from ranet_lib import runs

EXPERIMENTS = ROOT / "book" / "experiments"
TEXT = (EXPERIMENTS / "grid.yaml").read_text(encoding="utf-8")


def test_a_folder_of_images_may_be_missing_where_only_the_grid_is_read(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text(f"mine:\n  - {{model: resnet_tiny, dataset: 'folder:{tmp_path / 'photos'}', profile: smoke}}\n")
    (parameters,) = grid.read_grid(path)["mine"].values()
    with pytest.raises(FileNotFoundError, match="there is no folder .*photos"):
        runs.check_parameters(parameters)


def option(run, name, default):
    return run.get("model_options", {}).get(name, default)


def test_every_cifar_row_of_the_paper_has_three_seeds():
    seeds = collections.defaultdict(set)
    for run in grid.read_grid(EXPERIMENTS / "grid.yaml")["paper"].values():
        options = tuple(sorted(run.get("model_options", {}).items()))
        seeds[run["model"], run["dataset"], options, run.get("label_noise", 0.0)].add(run["seed"])
    rows = {
        *((f"attention_{depth}", "cifar10", rule, 0.0) for depth in (56, 92, 128, 164) for rule in ((), naive())),
        *(("attention_56", "cifar10", (("mask_activation", name),), 0.0) for name in ("channel", "spatial")),
        ("attention_56", "cifar10", (("mask_branch", "local"),), 0.0),
        *((name, "cifar10", (), noise) for name in ("resnet_164", "attention_92") for noise in (0.1, 0.3, 0.5, 0.7)),
        *(
            (name, data, (), 0.0)
            for name in ("resnet_164", "attention_92", "attention_236", "attention_452")
            for data in ("cifar10", "cifar100")
        ),
    }
    assert set(seeds) == rows
    assert set(map(tuple, seeds.values())) == {(0, 1, 2)}


def naive():
    return (("learning", "naive"),)


def test_every_row_of_the_source_document_is_there():
    runs = grid.read_grid(EXPERIMENTS / "grid.yaml")["source"].values()
    kinds = [
        (run["model"].split("_cifar")[0], run["dataset"], option(run, "shortcut", True), run.get("label_noise", 0.0))
        for run in runs
    ]
    networks = "source_attention_56", "source_attention_92"
    assert sorted(kinds) == sorted([
        *((name, data, True, 0.0) for name in networks for data in ("cifar10", "cifar100")),
        *((name, data, False, 0.0) for name in networks for data in ("cifar10", "cifar100")),
        *((name, "cifar10", True, noise) for name in (*networks, "resnet_164") for noise in (0.1, 0.3, 0.5, 0.7)),
        ("resnet_164", "cifar10", True, 0.0),
    ])  # fmt: skip
    assert {run["profile"] for run in runs} == {"source"}


def test_every_contrast_is_between_runs_that_the_grid_has():
    contrasts = yaml.safe_load((EXPERIMENTS / "contrasts.yaml").read_text(encoding="utf-8"))
    assert 0 < len(contrasts) <= 12 and len({one["claim"] for one in contrasts}) == len(contrasts)
    groups = grid.read_grid(EXPERIMENTS / "grid.yaml")
    listed = groups["students"] | groups["depth"] | groups["kinds"]
    pairs = set()
    for one in contrasts:
        shared = {"dataset": "cifar10", "profile": "evidence"}
        names = [runs.run_name(runs.check_parameters(shared | one[side])) for side in ("lower", "higher")]
        assert set(names) <= set(listed), one["claim"]
        pairs.add(frozenset(names))
    assert len(pairs) == len(contrasts)


def test_further_seeds_are_of_runs_that_the_first_seed_has():
    """The clean cells, 30% and 70% noise of `students`, and all of `depth` and `kinds`, each with seeds 1 and 2."""
    groups = grid.read_grid(EXPERIMENTS / "grid.yaml")
    first = groups["students"] | groups["depth"] | groups["kinds"]
    wanted = [run for run in first.values() if run.get("label_noise", 0.0) in (0.0, 0.3, 0.7)]
    asked = [run | {"label_noise": run.get("label_noise", 0.0), "seed": seed} for run in wanted for seed in (1, 2)]
    found = [run | {"label_noise": run.get("label_noise", 0.0)} for run in groups["seeds"].values()]
    ordered = lambda listed: sorted(map(repr, map(sorted, (run.items() for run in listed))))  # noqa: E731
    assert ordered(found) == ordered(asked)
    assert set(groups["recipe"]) <= set(groups["paper"])


def test_the_laptop_group_asks_the_questions_of_the_paper():
    runs = grid.read_grid(EXPERIMENTS / "grid.yaml")["laptop"].values()
    depth = {(option(run, "modules", 1), option(run, "learning", "residual"), run.get("seed")) for run in runs}
    assert depth >= {(m, rule, seed) for m in (1, 2, 4) for rule in ("residual", "naive") for seed in (0, 1)}
    assert {option(run, "mask_activation", "mixed") for run in runs} == {"mixed", "channel", "spatial"}
    assert {option(run, "mask_branch", "encoder_decoder") for run in runs} == {"encoder_decoder", "local"}
    assert {option(run, "shortcut", True) for run in runs} == {True, False}
    for name in ("attention_tiny", "resnet_tiny"):
        assert {run.get("label_noise", 0.0) for run in runs if run["model"] == name} == {0.0, 0.1, 0.3, 0.5, 0.7}
    assert {run["profile"] for run in runs} == {"study"} and {run["dataset"] for run in runs} == {"cifar10"}


@pytest.mark.slow
def test_a_group_of_ones_own_has_a_table_among_the_results(tmp_path):
    """What has run of it and what has not."""
    book, executed = tmp_path / "book", tmp_path / "results.ipynb"
    for name in ("results", "experiments"):
        shutil.copytree(ROOT / "book" / name, book / name)
    mine = "mine:\n  - {model: attention_tiny, dataset: cluttered_digits, profile: laptop, epochs: [15, 16]}\n"
    (book / "experiments" / "grid.yaml").write_text(TEXT + mine, encoding="utf-8")
    page = ROOT / "book" / "15_results.ipynb"
    started(lambda: papermill.execute_notebook(page, executed, cwd=book, **PATIENT))
    cells = nbformat.read(executed, as_version=4).cells
    shown = [output["data"] for cell in cells for output in cell.get("outputs", []) if "data" in output]
    (table,) = [text for data in shown if "The group mine" in (text := data.get("text/html", ""))]
    record = runs.read_record(book / "results" / "attention_tiny-cluttered_digits-laptop-seed0-0af8eb5b.json")
    assert f"{record['test']['last_epoch']['error']:.2f}" in table
    assert "The group mine: 1 of 2 runs made so far." in [data.get("text/markdown") for data in shown]


def test_a_name_stands_for_one_setting_in_all_groups():
    named = {}
    for group in grid.read_grid(EXPERIMENTS / "grid.yaml").values():
        for name, run in group.items():
            assert named.setdefault(name, run) == run


@pytest.mark.parametrize(
    "before, after, message",
    [
        ("    profile: full", "    profil: full", "unknown parameter 'profil'; the parameters are: model,"),
        ("attention_128", "attention_129", "unknown model 'attention_129' (did you mean 'attention_128'?)"),
        ("{learning: naive}", "{learning: naiv}", "learning must be one of 'residual', 'naive'; received 'naiv'"),
        ("[0.1, 0.3, 0.5, 0.7]", "[0.1, 1.3]", "label_noise must be a number at least 0 and at most 1; received 1.3"),
        ("seed: [0, 1, 2]", "devices: 3", "devices must divide batch_size 64; received 3"),
        ("seed: [0, 1, 2]", "seed: zero", "seed must be a number, or a list of different numbers; received 'zero'"),
        ("seed: [0, 1, 2]", "seed: [0, zero]", "seed must be a number; received 'zero'"),
        ("seed: [0, 1, 2]", "seed: [0, 0]", "seed must be a number, or a list of different numbers; received [0, 0]"),
        ("options: {mask_branch: local}", "options: local", "model_options must be options, as {learning: naive}"),
        ("paper:", "Paper:", "the name of a group must be small letters, digits, _ and -, a letter first"),
        ("source:", "mine:\nsource:", "a group must be a list of entries, at least one; received None"),
        ("options: {mask_branch: local}", "options: {mask_branch: local", "not YAML:"),
        ("dataset: [cifar10, cifar100]", "model: attention_56", "'model' is given twice"),
        ("paper:", "source:", "'source' is given twice"),
        ("{dropout: 0},", "{dropout: 0}, {dropout: 0},", "has the run source_attention_56-cifar100-source-seed0-"),
    ],
)
def test_a_slip_is_refused_with_its_line(tmp_path, before, after, message):
    path = tmp_path / "grid.yaml"
    path.write_text(TEXT.replace(before, after, 1), encoding="utf-8")
    line = TEXT[: TEXT.index(before)].count("\n") + 1
    with pytest.raises(grid.GridError) as refused:
        grid.read_grid(path)
    place, _, found = str(refused.value).partition(": ")
    assert message in found
    if "has the run" in message:  # the entry as a whole
        line = TEXT[: TEXT.rindex("  - model:", 0, TEXT.index(before))].count("\n") + 1
    elif "not YAML" in message:  # a parser sees a missing bracket at the next name
        line += 1
    assert place == f"{path}, line {line}"


@pytest.mark.parametrize("written, value", [("1e-4", 1e-4), ("1.5e3", 1500.0), ("0.1", 0.1), ("'1e-4'", None)])
def test_a_number_may_have_an_exponent(tmp_path, written, value):
    path = tmp_path / "grid.yaml"
    path.write_text(f"g:\n  - {{model: attention_tiny, dataset: cifar10, profile: smoke, learning_rate: {written}}}\n")
    if value is None:
        message = "line 2: learning_rate must be a number, or a list of different numbers; received '1e-4'"
        with pytest.raises(grid.GridError, match=message):
            grid.read_grid(path)
    else:
        (run,) = grid.read_grid(path)["g"].values()
        assert run["learning_rate"] == value
