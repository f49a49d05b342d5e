"""What takes input gives an answer or a clear error, whatever it is given: never a trace from deep inside."""

import copy
import dataclasses
import io
import json
import math
import os
import struct
import traceback
import warnings
from pathlib import Path

import grid
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from runs import ROOT

from ranet_lib import datasets, models, runs

# The same examples in every run; with FUZZ=20 in the environment, 20 times as many, and others each time.
TIMES = int(os.environ.get("FUZZ", "1"))
examples = settings(derandomize=TIMES == 1, database=None, deadline=None, max_examples=150 * TIMES, print_blob=True)
few = settings(examples, max_examples=40 * TIMES, suppress_health_check=[HealthCheck.function_scoped_fixture])

NUMBERS = st.integers(-3, 10**30) | st.floats() | st.sampled_from([0, 1, 2, 0.5, True, False])
WORDS = st.text(max_size=8) | st.sampled_from(["mixed", "residual", "naive", "local", "cosine", "1", "attention_56"])
PLAIN = st.none() | NUMBERS | WORDS
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=3))


def answer_or_clear_error(call, *, names=(), kinds=(ValueError,)):
    """What `call` returns, or None after an error of these kinds that was raised by our own code and says something."""
    try:
        return call()
    except kinds as error:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        # Not ROOT alone: an environment of make lies inside it.
        ours = any(raised_in.is_relative_to(ROOT / part) for part in ("ranet_lib", "book"))
        assert ours, f"{error!r} comes from {raised_in}"
        assert "\n" not in str(error).strip() or len(str(error)) < 2000
        assert any(name in str(error) for name in names) or not names, f"{error} names none of {names}"


# --- Networks ----------------------------------------------------------------------------------------------------


@examples
@given(
    st.sampled_from(models.list_models()) | WORDS,
    st.dictionaries(st.sampled_from(list(models.OPTIONS)) | WORDS, VALUES, max_size=3),
)
def test_options_of_a_network(name, options):
    wrong = ["unknown model", *map(repr, options), *filter(None, options)]
    resolved = answer_or_clear_error(lambda: models.check_options(name, options), names=wrong)
    if resolved is not None:
        assert resolved == models.check_options(name, resolved)  # an answer can be asked again
        for option, value in options.items():  # what was given is there: for every stage where that is meant
            stages = isinstance(resolved[option], list) and not isinstance(value, list)
            assert set(resolved[option]) == {value} if stages else resolved[option] == value


@examples
@given(VALUES, VALUES | st.lists(st.integers(-1, 10**30), min_size=3, max_size=3))
def test_classes_and_image_size_of_a_network(classes, shape):
    def build():
        return models.create_model("attention_tiny", num_classes=classes, input_shape=shape)

    answer_or_clear_error(build, names=["num_classes", "input_shape"])


HUGE = 10**400  # which no float holds


@pytest.mark.parametrize(
    "options",
    [{"width": HUGE}, {"width": 1e308}, {"modules": 10**9}, {"mask_depth": 10**9}, {"pre_units": HUGE},
     {"num_classes": 10**9}, {"num_classes": HUGE}, {"input_shape": (HUGE, 32, 3)}, {"input_shape": (32, 32, 10**9)}],
    ids=lambda options: f"{next(iter(options))} {next(iter(options.values()))!r:.12}",
)  # fmt: skip
def test_a_network_too_large_for_any_machine_is_refused_at_once(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be "):
        models.create_model("attention_tiny", **options)


def test_numbers_of_numpy_are_numbers():
    number = np.int64(1)
    model = models.create_model("attention_tiny", np.int64(3), pre_units=number, width=np.float32(0.5))
    assert model.output_shape == (None, 3)
    given = {"seed": number, "epochs": number, "batch_size": np.uint8(8), "learning_rate": np.float32(0.5)}
    given |= {"label_noise": np.float32(0.5), "devices": number}
    given["model_options"] = {"pre_units": number, "modules": [number] * 3}
    run = runs.check_parameters(given)
    json.dumps({**run, "recipe": dataclasses.asdict(run["recipe"]), "output_dir": ""})


def test_one_setting_has_one_name_however_its_numbers_are_written():
    same = [{"label_noise": 0, "learning_rate": 1}, {"label_noise": -0.0, "learning_rate": 1.0}]
    assert len({runs.run_name(runs.check_parameters(run)) for run in same}) == 1


# --- Papermill's parameters --------------------------------------------------------------------------------------


@examples
@given(st.dictionaries(st.sampled_from(list(runs.PARAMETERS)), VALUES, min_size=1, max_size=2))
def test_parameters_of_the_experiment_notebook(parameters):
    kinds = (ValueError, FileNotFoundError, FileExistsError)
    run = answer_or_clear_error(lambda: runs.check_parameters(parameters), kinds=kinds)
    if run is not None:
        for name in ("seed", "label_noise"):
            assert run[name] == parameters.get(name, runs.PARAMETERS[name])
        for name in ("epochs", "batch_size", "learning_rate"):
            if parameters.get(name) is not None:
                assert getattr(run["recipe"], name) == parameters[name]
        if parameters.get("mixed_precision") is not None:
            assert run["recipe"].precision == parameters["mixed_precision"]


# --- The grid ----------------------------------------------------------------------------------------------------

GRID = (ROOT / "book" / "experiments" / "grid.yaml").read_text(encoding="utf-8").partition("# The student project")[0]


@few
@given(st.data())
def test_a_grid_with_a_slip(tmp_path, data):
    at = data.draw(st.integers(0, len(GRID) - 1))
    cut, put = data.draw(st.integers(0, 12)), data.draw(st.text("abc:-[]{} \n\t'\"#0.1é&*!|>%@", max_size=4))
    path = tmp_path / "grid.yaml"
    path.write_text(GRID[:at] + put + GRID[at + cut :], encoding="utf-8")
    groups = answer_or_clear_error(lambda: grid.read_grid(path), names=["line "], kinds=(grid.GridError,))
    if groups is not None:
        for group in groups.values():
            for run in group.values():
                runs.check_parameters({**run, "output_dir": str(tmp_path / "run")})


@few
@given(VALUES)
def test_a_grid_of_anything(tmp_path, content):
    path = tmp_path / "grid.yaml"
    path.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
    answer_or_clear_error(lambda: grid.read_grid(path), names=["line "], kinds=(grid.GridError,))


@pytest.mark.parametrize(
    "content, line, message",
    [
        (b"small:\n  - {model: \x01}\n", 2, "special characters are not allowed"),
        ("small:\n\n\n# caf\u00e9".encode("latin-1"), 4, "not UTF-8"),
        (b"small:\n  - {seed: 2001-13-45}\n", 2, "not a value: '2001-13-45'"),
        (b"small:\n  - {seed: !!int three}\n", 2, "not a value: 'three'"),
        (b"small:\n  - {model: !!python/name:os.system }\n", 2, "not a value"),
        (b"small:\n  - {model: =}\n", 2, "not a value: '='"),
        (b"small:\n  - {seed: !!bool maybe}\n", 2, "not a value: 'maybe'"),
        (b'small:\n  - {seed: !!int ""}\n', 2, "not a value: ''"),
        (b"small: !!python/object/apply:os.system\n  - {model: attention_tiny}\n", 1, "not a value: .*os.system"),
        (b"small:\n  - {seed: 010}\n", 2, r"not a value: '010' \(for YAML 1.1 it is 8,"),
        (b"small:\n  - {seed: 1_000}\n", 2, "not a value: '1_000'"),
        (b"small:\n  - {learning_rate: 1:30}\n", 2, "not a value: '1:30'"),
        (b'small:\n  - {model: "\\U00110000"}\n', 1, "not YAML: chr"),
        (b'small:\n  - {model: "\\Uffffffff"}\n', 1, "not YAML"),
        (b"small:\n  - {model: attention_tiny, profile: smoke, dataset: cluttered_digits,\n    learning_rate: "
         + b"9" * 400 + b"}", 3, "learning_rate must be a number"),
        (b"small: &a\n  - *a\n", 1, "nested without end"),
        (b"[" * 3000, 1, "nested without end"),
        (b"a: &a [" + b"1, " * 99 + b"1]\nb: &b [" + b"*a, " * 99 + b"*a]\nc: [" + b"*b, " * 99 + b"*b]", 1, "values"),
        (b"small:\n  - {model: attention_tiny, dataset: cluttered_digits, profile: smoke,\n    seed: &s ["
         + ", ".join(map(str, range(50))).encode() + b"], epochs: *s, batch_size: *s}", 2, "more than 100,000 runs"),
    ],
)  # fmt: skip
def test_a_grid_that_is_no_text_or_has_no_end(content, line, message, tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_bytes(content)
    with pytest.raises(grid.GridError, match=f"grid.yaml, line {line}( or below)?: .*{message}"):
        grid.read_grid(path)


# --- Run records -------------------------------------------------------------------------------------------------

RECORD = runs.read_record(sorted((ROOT / "book" / "results").glob("*.json"))[0])


def places(value, path=()):
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


PLACES = [path for path in places(RECORD) if path]


@examples
@given(st.sampled_from(PLACES), VALUES | st.just("removed"))
def test_a_record_with_a_changed_place(place, value):
    record = copy.deepcopy(RECORD)
    *way, last = place
    holder = record
    for key in way:
        holder = holder[key]
    if value == "removed":
        del holder[last]
    else:
        holder[last] = value
    valid = answer_or_clear_error(lambda: runs.validate_record(record), names=["not a run record: $"])
    if valid is not None:  # then everything that reads records can read it
        runs.summary({"changed": valid})


@few
@given(st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_a_record_of_anything(tmp_path, content):
    path = tmp_path / "record.json"
    path.write_bytes(content)
    answer_or_clear_error(lambda: runs.read_record(path), names=["record.json"])


@pytest.mark.parametrize("text", ["[" * 100_000, "NaN", "1e999", "-1e999", "1" * 400])
def test_a_record_with_no_end_or_no_number(text, tmp_path):
    path = tmp_path / "record.json"
    path.write_text(json.dumps({**RECORD, "seed": "HERE"}).replace('"HERE"', text), encoding="utf-8")
    with pytest.raises(ValueError, match="record.json: not a run record"):
        runs.read_record(path)


@pytest.mark.parametrize(
    "before, after, message",
    [
        ('"seed":', '"seed": 7, "seed":', "'seed' is given twice"),
        ('"copy": "', '"copy": "\\ud800', "not valid Unicode"),
        ('"options": {', '"options": {"modules": 2, ', "modules"),
        ('"options": {', '"options": {"pre_units": "x", ', "pre_units"),
        ('"last_epoch": {"epoch": ', '"last_epoch": {"epoch": 9', "test.last_epoch.epoch: 9"),
        ('"chosen_on_validation": {"epoch": ', '"chosen_on_validation": {"epoch": 9', "chosen_on_validation.epoch: 9"),
    ],
)
def test_a_record_that_does_not_agree_with_itself(before, after, message, tmp_path):
    text = json.dumps(RECORD)
    assert before in text
    path = tmp_path / "record.json"
    path.write_text(text.replace(before, after, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=f"record.json: .*{message}"):
        runs.read_record(path)


def test_a_folder_of_records_that_is_not_there_is_no_empty_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere"):
        runs.read_records(tmp_path / "nowhere")


# --- Folders of images -------------------------------------------------------------------------------------------


def picture(kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (5, 4), "red").save(file, kind)
    return file.getvalue()


LETTERS = st.characters(codec="utf-8", exclude_characters="/\\:*?\"<>|", exclude_categories=["Cs", "Cc"])
NAMES = st.text(LETTERS, min_size=1, max_size=12).filter(lambda name: name.strip(". "))
CONTENTS = st.binary(max_size=50) | st.sampled_from([picture("PNG"), picture("JPEG"), picture()[:40]])


@few
@given(st.dictionaries(NAMES, CONTENTS, max_size=4))
def test_a_folder_with_odd_files(tmp_path_factory, odd):
    root = tmp_path_factory.mktemp("photos")
    for label in ("a", "b"):
        (root / label).mkdir()
        for number in range(10):
            (root / label / f"{number}.png").write_bytes(picture())
    for name, content in odd.items():
        (root / "a" / name).write_bytes(content)
    data = answer_or_clear_error(lambda: datasets.load_dataset(f"folder:{root}"), names=[*odd])
    if data is not None:
        read = [name for name in {*odd} - {f"{number}.png" for number in range(10)} if not name.startswith(".")]
        assert len(data.train) + len(data.validation) + len(data.test) == 20 + len(read)
        assert math.isfinite(float(data.std.sum()))


SPLITS = ["train", "Training", "val", "valid", "dev", "validation", "TEST", "testing"]
LITTER = ["__MACOSX", "@eaDir", ".git", "Thumbs.db"]
TOPS = st.sampled_from([*SPLITS, *LITTER, "$5_to_$10", "{}", "cats"]) | NAMES


@few
@given(st.dictionaries(TOPS, st.sets(st.sampled_from(["a", "b", "train", "$", "@eaDir"]), max_size=3), max_size=4))
def test_folders_of_any_names(tmp_path_factory, tree):
    """Classes, or splits with classes in them, or an error that names the folder."""
    root = tmp_path_factory.mktemp("photos")
    for top, labels in tree.items():
        for folder in [root / top / label for label in labels] or [root / top]:
            folder.mkdir(parents=True, exist_ok=True)  # some systems take `Test` and `TEST` for one
            for number in range(10):
                (folder / f"{number}.png").write_bytes(picture())
    names = [str(root), *tree]
    data = answer_or_clear_error(lambda: datasets.load_dataset(f"folder:{root}", image_size=2), names=names)
    if data is not None:
        found = {name.lower() for name in data.class_names}
        assert len(data.class_names) >= 2 and not found & {name.lower() for name in LITTER}
        assert min(len(data.train), len(data.validation), len(data.test)) > 0


@few
@given(st.binary(max_size=60), st.sampled_from(["JPEG", "PNG", "WEBP"]))
def test_a_picture_with_any_tags(tmp_path_factory, tags, kind):
    """What does not even say how large it is cannot be turned, but it can be seen."""
    root = tmp_path_factory.mktemp("photos")
    file = io.BytesIO()
    Image.new("RGB", (5, 4), "red").save(file, kind, exif=b"Exif\0\0II*\0\x08\0\0\0" + tags)
    for label in ("a", "b"):
        (root / label).mkdir()
        for number in range(10):
            (root / label / f"{number}.png").write_bytes(file.getvalue())
    with warnings.catch_warnings(action="ignore"):  # Pillow tells of damaged tags
        data = datasets.load_dataset(f"folder:{root}", image_size=4)
    assert len(data.train) == 16 and (data.train.images[..., 0] > 200).all()


ODD = {
    "folder": (lambda path: path.mkdir(), "it is not a file"),
    "link to nothing": (lambda path: path.symlink_to("nothing.png"), "it is not a file"),
    "link to itself": (lambda path: path.symlink_to(path), "it is not a file"),
    "pipe": (lambda path: os.mkfifo(path), "it is not a file"),
    "empty": (lambda path: path.touch(), "cannot identify image file"),
    "program": (lambda path: path.write_bytes(picture("EPS")), "another program"),  # Ghostscript's, in PostScript
    "text": (lambda path: path.write_text("a picture", encoding="utf-8"), "cannot identify image file"),
    "cut": (lambda path: path.write_bytes(picture()[:40]), ""),
    # A few bytes that ask for 10 GB of memory.
    "60,000 pixels a side": (
        lambda path: path.write_bytes(picture().replace(struct.pack(">II", 5, 4), struct.pack(">II", 60_000, 60_000))),
        "",
    ),
}


@pytest.mark.parametrize("odd", ODD)
def test_what_is_no_picture_is_named(odd, tmp_path):
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.png").write_bytes(picture())
    make, message = ODD[odd]
    try:
        make(tmp_path / "b" / "odd.png")
    except (AttributeError, OSError):
        pytest.skip("this system has no such thing, or lets nobody make one")
    with pytest.raises(ValueError, match=f"odd.png cannot be read as an image: .*{message}"):
        datasets.load_dataset(f"folder:{tmp_path}")


FOLDERS = ["", "/no/such/place", "\0", "x" * 5000, "~nobody-here"]
NO_DATA = [*(f"folder:{folder}" for folder in FOLDERS), "cifar11", "", None, 3]


@pytest.mark.parametrize("name", NO_DATA, ids=lambda name: repr(name)[:20])
def test_a_data_set_that_is_none(name):
    names = [repr(name), repr(str(name).removeprefix("folder:"))]
    answer_or_clear_error(lambda: pytest.fail(datasets.load_dataset(name)), names=names, kinds=(ValueError, OSError))
