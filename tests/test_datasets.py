import dataclasses
import functools
import gzip
import hashlib
import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ranet_lib import datasets
from ranet_lib.datasets import augment, corrupt_labels, load_dataset, transition_matrix
from ranet_lib.files import fetching

SHARED = Path(__file__).parents[2] / "shared" / "data"


def splits(dataset):
    return dataset.train, dataset.validation, dataset.test


def rows_as_set(images):
    return {image.tobytes() for image in images}


# ---- Any data set ------------------------------------------------------------------------------------------


def test_importing_datasets_imports_nothing_heavy():
    heavy = "{'keras', 'tensorflow', 'jax', 'torch', 'sklearn', 'PIL', 'matplotlib'}"
    code = f"import sys, ranet_lib.datasets; sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


@pytest.mark.parametrize("name", ["mnist", "CIFAR10", "", "folder", None, 10])
def test_an_unknown_name_is_an_error_that_lists_what_is_allowed(name):
    with pytest.raises(ValueError) as failure:
        load_dataset(name)
    for part in (repr(name), "cluttered_digits", "cifar10", "cifar100", "folder:PATH"):
        assert part in str(failure.value)


@pytest.mark.parametrize("seed", [-1, 1.5, "0", None, True])
def test_a_wrong_seed_is_an_error(seed):
    with pytest.raises(ValueError, match=f"seed must be a whole number of at least 0; received {seed!r}"):
        load_dataset("cluttered_digits", seed=seed)


def test_an_argument_that_does_not_apply_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="image_size=64 .* 32x32"):
        load_dataset("cifar10", tmp_path, image_size=64)
    with pytest.raises(ValueError, match="image_size=32"):
        load_dataset("cluttered_digits", image_size=32)
    with pytest.raises(ValueError, match="data_dir"):
        load_dataset("cluttered_digits", data_dir=tmp_path)
    with pytest.raises(ValueError, match="data_dir"):
        load_dataset(f"folder:{tmp_path}", data_dir=tmp_path)
    with pytest.raises(ValueError, match="image_size must be a whole number from 1 to 10000"):
        load_dataset(f"folder:{tmp_path}", image_size=0)


# ---- Cluttered digits --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    return load_dataset("cluttered_digits")


def test_cluttered_digits_are_complete_and_balanced(digits):
    assert [len(split) for split in splits(digits)] == [10_000, 1_000, 2_000]
    assert digits.class_names == tuple("0123456789")
    assert (digits.num_classes, digits.image_shape, digits.copy) == (10, (32, 32, 3), "embedded")
    for split in splits(digits):
        assert (split.images.shape, split.images.dtype) == ((len(split), 32, 32, 3), np.uint8)
        assert (split.masks.shape, split.masks.dtype) == ((len(split), 32, 32), bool)
        assert split.labels.dtype == np.int64
        assert np.bincount(split.labels).tolist() == [len(split) // 10] * 10
        assert len(rows_as_set(split.images)) == len(split)


def test_cluttered_digits_are_the_same_bytes_everywhere(digits):
    # A change here means that every record on this data set is about other images than before.
    assert digits.fingerprint == "sha256:e9080601841850e1e11b741525300051874f058686ac2d960480def28619dc75"


def test_the_seed_decides_what_is_painted(monkeypatch):
    monkeypatch.setattr(datasets.digits, "_SCENES", ((300, 0, 0.7), (30, 0.7, 0.8), (20, 0.8, 1)))
    first, again, other = (load_dataset("cluttered_digits", seed=seed) for seed in (0, 0, 1))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert not rows_as_set(first.train.images) & rows_as_set(other.train.images)


def test_a_mask_covers_one_digit_of_one_colour(digits):
    test = digits.test
    pixels = test.masks.sum((1, 2))
    assert pixels.min() >= 20 and pixels.max() <= 180
    rows = [np.flatnonzero(mask.any(1)) for mask in test.masks]
    heights = np.array([row[-1] - row[0] + 1 for row in rows])
    assert np.percentile(heights, 5) >= 10 and heights.max() <= 22
    for image, mask in zip(test.images[:300], test.masks[:300], strict=True):
        assert len(np.unique(image[mask], axis=0)) < mask.sum()  # full strokes repeat their colour exactly
        spread = image[mask].astype(float).std(0).mean()
        assert spread < 0.75 * image[~mask].astype(float).std(0).mean()


def test_the_clutter_is_as_strong_in_colour_as_the_digit(digits):
    images, masks = digits.test.images.astype(int), digits.test.masks
    strength = images.max(-1) - images.min(-1)
    is_strong = strength >= np.median(strength[masks])
    assert is_strong[masks].sum() < is_strong[~masks].sum()


def test_no_writing_is_shared_between_splits(monkeypatch):
    """Also true of the pieces of clutter, which are cut from what the split is given."""
    given = []

    def paint(glyphs, digits, count, rng):
        given.append(glyphs)
        return datasets.Split(np.zeros((10, 32, 32, 3), np.uint8), np.arange(10))

    monkeypatch.setattr(datasets.digits, "_paint_scenes", paint)
    load_dataset("cluttered_digits", seed=5)
    train, validation, test = (rows_as_set(glyphs) for glyphs in given)
    assert not (train & validation or train & test or validation & test)
    assert len(train | validation | test) == 1797
    assert len(train) > 1200 and len(validation) > 150 and len(test) > 300


def test_the_writings_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    cells, labels = datasets.digits._handwritten_digits()
    expected = load_digits()
    np.testing.assert_array_equal(cells * 16, expected.images)
    np.testing.assert_array_equal(labels, expected.target)


# ---- CIFAR in the official layout, made small --------------------------------------------------------------

CLASSES = {"cifar10": 10, "cifar100": 100}
FOLDERS = {
    "pickled": {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"},
    "binary": {"cifar10": "cifar-10-batches-bin", "cifar100": "cifar-100-binary"},
}
ARCHIVES = {
    "pickled": {"cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz"},
    "binary": {"cifar10": "cifar-10-binary.tar.gz", "cifar100": "cifar-100-binary.tar.gz"},
}


def small_cifar(name):
    """{file: (images, labels)} with the five or one training files and the test file."""
    rng = np.random.default_rng(7)
    names = (
        [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"] if name == "cifar10" else ["train", "test"]
    )
    count = 40 if name == "cifar10" else 200
    return {
        file: (
            rng.integers(0, 256, (count, 32, 32, 3), np.uint8),
            rng.permutation(np.arange(count) % CLASSES[name]),
        )
        for file in names
    }


def planes(images):
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), 3072)


def python2_pickle(batch):
    """The bytes that Python 2 and its numpy wrote: text as byte strings, old module names, protocol 2."""

    def dump(value):
        if isinstance(value, str):
            return dump(value.encode())
        if isinstance(value, bytes):
            return b"T" + struct.pack("<I", len(value)) + value
        if isinstance(value, int):
            return b"J" + struct.pack("<i", value)
        if isinstance(value, list):
            return b"](" + b"".join(map(dump, value)) + b"e"
        if isinstance(value, dict):
            return b"}(" + b"".join(dump(key) + dump(item) for key, item in value.items()) + b"u"
        empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        kind = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"
        shape = dump(value.shape[0]) + dump(value.shape[1]) + b"\x86"
        return empty + b"(K\x01" + shape + kind + b"\x89" + dump(value.tobytes()) + b"tb"

    return b"\x80\x02" + dump(batch) + b"."


PICKLERS = {
    "python 2": python2_pickle,
    "protocol 2": lambda batch: pickle.dumps({key.encode(): value for key, value in batch.items()}, 2),
    "protocol 4": lambda batch: pickle.dumps(batch, 4),
}


def official_files(name, form, content=None, note="training batch"):
    """{file name: bytes} in one of the forms: "binary" or a key of PICKLERS."""
    content = small_cifar(name) if content is None else content
    class_names = [f"class_{number}" for number in range(CLASSES[name])]
    label_key, names_key = (
        ("labels", "label_names") if name == "cifar10" else ("fine_labels", "fine_label_names")
    )
    files = {}
    for file, (images, labels) in content.items():
        if form == "binary":
            columns = [labels] if name == "cifar10" else [labels // 5, labels]
            records = np.column_stack([*columns, planes(images)]).astype(np.uint8)
            files[f"{file}.bin"] = records.tobytes()
        else:
            batch = {"batch_label": note, label_key: labels.tolist(), "data": planes(images), "filenames": []}
            files[file] = PICKLERS[form](batch)
    if form == "binary":
        meta = "batches.meta.txt" if name == "cifar10" else "fine_label_names.txt"
        files[meta] = "\n".join([*class_names, ""]).encode()
    else:
        files["batches.meta" if name == "cifar10" else "meta"] = PICKLERS[form]({names_key: class_names})
    return files


def write_folder(parent, name, form="protocol 4", **changes):
    folder = parent / FOLDERS["binary" if form == "binary" else "pickled"][name]
    folder.mkdir(parents=True)
    for file, data in official_files(name, form, **changes).items():
        (folder / file).write_bytes(data)
    return folder


def write_archive(parent, name, form="protocol 4", folder=None, **changes):
    kind = "binary" if form == "binary" else "pickled"
    path = parent / ARCHIVES[kind][name]
    with tarfile.open(path, "w:gz") as archive:
        for file, data in official_files(name, form, **changes).items():
            member = tarfile.TarInfo(f"{folder or FOLDERS[kind][name]}/{file}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def test_the_python_2_pickle_of_these_tests_is_a_real_one():
    data = np.arange(6144, dtype=np.uint16).astype(np.uint8).reshape(2, 3072)
    read = pickle.loads(python2_pickle({"data": data, "labels": [1, 2]}), encoding="latin1")
    np.testing.assert_array_equal(read["data"], data)
    assert read["labels"] == [1, 2]


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("form", ["binary", *PICKLERS])
def test_cifar_is_read_in_every_form_and_place(name, form, tmp_path):
    content = small_cifar(name)
    *train_files, test_file = content
    folder = write_folder(tmp_path / "unpacked", name, form)
    archive = write_archive(tmp_path, name, form)
    loaded = [load_dataset(name, place) for place in (folder, folder.parent, str(archive), archive.parent)]
    assert len({dataset.fingerprint for dataset in loaded}) == 1
    for dataset in loaded:
        assert dataset.copy == "unverified"
        assert dataset.class_names[:2] == ("class_0", "class_1") and dataset.num_classes == CLASSES[name]
        np.testing.assert_array_equal(dataset.test.images, content[test_file][0])
        np.testing.assert_array_equal(dataset.test.labels, content[test_file][1])
        assert all(split.masks is None and split.labels.dtype == np.int64 for split in splits(dataset))
        label_of = {
            image.tobytes(): label
            for file in train_files
            for image, label in zip(*content[file], strict=True)
        }
        assert len(dataset.train) == 180 and len(dataset.validation) == 20
        found = {}
        for split in (dataset.train, dataset.validation):
            found |= {image.tobytes(): label for image, label in zip(split.images, split.labels, strict=True)}
        assert found == label_of  # every training image once, with its own label, and no test image


def test_binary_and_pickled_files_give_one_fingerprint_and_other_pixels_another(tmp_path):
    fingerprints = set()
    for form in ("binary", *PICKLERS):
        fingerprints.add(load_dataset("cifar10", write_folder(tmp_path / form, "cifar10", form)).fingerprint)
    assert len(fingerprints) == 1
    content = small_cifar("cifar10")
    content["test_batch"][0][3, 4, 5, 1] ^= 1
    changed = write_folder(tmp_path / "changed", "cifar10", content=content)
    assert load_dataset("cifar10", changed).fingerprint not in fingerprints


def test_validation_is_a_tenth_of_each_class_and_depends_on_the_seed_alone(tmp_path):
    folder = write_folder(tmp_path, "cifar10")
    first, again, other = (load_dataset("cifar10", folder, seed=seed) for seed in (0, 0, 1))
    assert np.bincount(first.validation.labels).tolist() == [2] * 10
    assert first.fingerprint == again.fingerprint
    assert rows_as_set(first.validation.images) != rows_as_set(other.validation.images)
    assert rows_as_set(first.test.images) == rows_as_set(other.test.images)
    assert not rows_as_set(first.validation.images) & rows_as_set(first.train.images)

    content = small_cifar("cifar10")
    for images, _ in content.values():
        images[...] = 255 - images
    inverted = load_dataset("cifar10", write_folder(tmp_path / "inverted", "cifar10", content=content))
    np.testing.assert_array_equal(255 - inverted.validation.images, first.validation.images)


def test_the_jpeg_copy_says_so(tmp_path):
    folder = write_folder(tmp_path, "cifar10", note="data_batch_1, JPEG copy")
    assert load_dataset("cifar10", folder).copy == "jpeg"


@pytest.mark.parametrize("form", ["python 2", "binary"])
def test_official_means_the_published_checksums(form, tmp_path, monkeypatch):
    archive = write_archive(tmp_path, "cifar100", form)
    folder = write_folder(tmp_path / "unpacked", "cifar100", form)
    pickled, binary = datasets.cifar._CIFAR["cifar100"]
    md5 = hashlib.md5
    layouts = (
        dataclasses.replace(
            pickled,
            md5=tuple(md5(official_files("cifar100", "python 2")[f]).hexdigest() for f in pickled.files),
        ),
        dataclasses.replace(binary, archive_md5=md5(archive.read_bytes()).hexdigest()),
    )
    monkeypatch.setitem(datasets.cifar._CIFAR, "cifar100", layouts)
    assert load_dataset("cifar100", archive).copy == "official"
    # No checksum of the single binary files was published.
    assert load_dataset("cifar100", folder).copy == ("unverified" if form == "binary" else "official")
    content = small_cifar("cifar100")
    content["test"][0][0, 0, 0, 0] ^= 1
    (tmp_path / "changed").mkdir()
    changed = write_archive(tmp_path / "changed", "cifar100", form, content=content)
    assert load_dataset("cifar100", changed).copy == "unverified"


@pytest.mark.parametrize("form", ["binary", "protocol 4"])
@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_missing_or_damaged_file_is_named(form, damage, packed, tmp_path):
    folder = write_folder(tmp_path, "cifar10", form)
    victim = folder / ("data_batch_3.bin" if form == "binary" else "data_batch_3")
    if damage == "missing":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:5000] if damage == "cut" else b"")
    place = folder
    if packed:
        place = tmp_path / "packed" / ARCHIVES["binary" if form == "binary" else "pickled"]["cifar10"]
        place.parent.mkdir()
        with tarfile.open(place, "w:gz") as archive:
            archive.add(folder, folder.name)
    with pytest.raises(FileNotFoundError if damage == "missing" else ValueError, match="data_batch_3"):
        load_dataset("cifar10", place)


def test_a_cut_archive_is_named(tmp_path):
    archive = write_archive(tmp_path, "cifar10")
    whole = archive.read_bytes()
    for keep in (0, 100, len(whole) // 2, len(whole) - 1000):
        archive.write_bytes(whole[:keep])
        with pytest.raises((ValueError, FileNotFoundError), match="cifar-10-python.tar.gz"):
            load_dataset("cifar10", archive)


def test_images_labels_and_counts_must_agree(tmp_path):
    def load_with(name, **changes):
        batch = {"labels": [0] * 40, "data": np.zeros((40, 3072), np.uint8), "batch_label": ""} | changes
        folder = write_folder(tmp_path / name, "cifar10")
        (folder / "data_batch_2").write_bytes(pickle.dumps(batch, 4))
        return load_dataset("cifar10", folder)

    cases = {
        "a label out of range": ({"labels": [0] * 39 + [10]}, "0 to 10.*0 to 9"),
        "a negative label": ({"labels": [-1] * 40}, "-1"),
        "fewer labels": ({"labels": [0] * 39}, "40 images and 39 labels"),
        "labels that are no numbers": ({"labels": ["cat"] * 40}, "whole numbers"),
        "another image size": ({"data": np.zeros((40, 1024), np.uint8)}, r"\(N, 3072\).*\(40, 1024\)"),
        "another type": ({"data": np.zeros((40, 3072), np.int16)}, "int16"),
        "no array": ({"data": b"pixels"}, "bytes"),
        "fewer images": ({"labels": [0] * 9, "data": np.zeros((9, 3072), np.uint8)}, "holds 9 images"),
    }
    for name, (changes, message) in cases.items():
        with pytest.raises(ValueError, match=f"data_batch_2: .*{message}"):
            load_with(name, **changes)


def test_a_crafted_pickle_runs_nothing(tmp_path):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    folder = write_folder(tmp_path, "cifar10")
    (folder / "test_batch").write_bytes(pickle.dumps({b"data": Evil()}, 2))
    with pytest.raises(ValueError, match="test_batch.*asks to run.*system"):
        load_dataset("cifar10", folder)
    assert not marker.exists()


@pytest.mark.parametrize(
    "file, key, value, message",
    [
        ("batches.meta", "label_names", 5, "class names are no list"),
        ("batches.meta", "label_names", "abcdefghij", "class names are no list"),
        ("test_batch", "labels", functools.reduce(lambda inner, _: [inner] * 10, range(12), 0), "lists in a list"),
    ],
)
def test_what_a_crafted_pickle_holds_is_named(file, key, value, message, tmp_path):
    path = write_folder(tmp_path, "cifar10") / file
    path.write_bytes(pickle.dumps(pickle.loads(path.read_bytes()) | {key: value}, 4))
    with pytest.raises(ValueError, match=f"{file}: .*{message}"):
        load_dataset("cifar10", tmp_path)


def test_a_note_that_is_no_text_is_not_written_out(tmp_path):
    path = write_folder(tmp_path, "cifar10") / "test_batch"
    note = b"\x8c\x0bbatch_label" + b"]" * 100_000 + b"a" * 99_999 + b"s."
    path.write_bytes(pickle.dumps(pickle.loads(path.read_bytes()), 3)[:-1] + note)
    assert load_dataset("cifar10", tmp_path).copy == "unverified"


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.REGTYPE])
@pytest.mark.parametrize("size", [600 << 20, 1 << 62])
def test_an_archive_cannot_fill_the_memory_or_go_on_for_ever(kind, size, tmp_path):
    member = tarfile.TarInfo("x")
    member.type, member.size = kind, size
    with gzip.open(tmp_path / "cifar-10-python.tar.gz", "wb", 1) as archive:
        archive.write(member.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20))
    with pytest.raises(ValueError, match="cifar-10-python.tar.gz is damaged.*'x' would have"):
        load_dataset("cifar10", tmp_path)


@pytest.mark.parametrize("headers", [{"size": "9" * 18}, {"GNU.sparse.map": "=,1", "GNU.sparse.size": "="}])
def test_an_archive_with_a_header_that_lies_is_named(headers, tmp_path):
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("x")
        member.pax_headers = headers
        archive.addfile(member)
    with pytest.raises(ValueError, match="cifar-10-python.tar.gz is damaged"):
        load_dataset("cifar10", tmp_path)


def test_an_archive_writes_nothing_wherever_its_members_say_they_belong(tmp_path):
    place = tmp_path / "inside"
    place.mkdir()
    write_archive(place, "cifar10", folder="../../cifar-10-batches-py")
    assert len(load_dataset("cifar10", place).test) == 40
    assert [path.name for path in tmp_path.rglob("*")] == ["inside", "cifar-10-python.tar.gz"]


def test_a_folder_without_the_data_is_an_error_that_says_what_was_sought(tmp_path):
    write_folder(tmp_path, "cifar100")
    with pytest.raises(FileNotFoundError, match="cifar-10-batches-py, cifar-10-python.tar.gz") as failure:
        load_dataset("cifar10", tmp_path)
    assert str(tmp_path) in str(failure.value)


def test_cifar_without_data_dir_comes_from_the_cache(tmp_path, monkeypatch):
    path = write_archive(tmp_path, "cifar100")
    data = path.read_bytes()
    known = fetching.Archive(path.name, len(data), hashlib.sha256(data).hexdigest(), ())
    monkeypatch.setitem(fetching.ARCHIVES, "cifar100", known)
    monkeypatch.setenv("RANET_DATA", str(tmp_path))
    assert load_dataset("cifar100").fingerprint == load_dataset("cifar100", tmp_path).fingerprint
    path.write_bytes(data[:-1])  # damaged, and no source has another
    with pytest.raises(fetching.DownloadError, match="data_dir"):
        load_dataset("cifar100")


# ---- CIFAR, real images ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_images(tmp_path_factory):
    if not (SHARED / "unpack.py").exists():
        pytest.skip(f"the real CIFAR images are not in {SHARED}")
    folder = tmp_path_factory.mktemp("cifar")
    subprocess.run([sys.executable, SHARED / "unpack.py", folder, "--heads"], check=True)
    return folder


def test_real_cifar10(real_images):
    dataset = load_dataset("cifar10", real_images)
    assert dataset.class_names[:4] == ("airplane", "automobile", "bird", "cat")
    assert [len(split) for split in splits(dataset)] == [4576, 509, 1017]
    # The first training image of CIFAR-10 is a frog; its first pixel and its last are well known.
    frog = next(
        (split.images[i], split.labels[i])
        for split in (dataset.train, dataset.validation)
        for i in range(len(split))
        if split.images[i, 0, 0].tolist() == [59, 62, 63]
        and split.images[i, -1, -1].tolist() == [123, 92, 72]
    )
    assert dataset.class_names[frog[1]] == "frog"
    assert dataset.class_names[dataset.test.labels[0]] == "cat"
    # Published statistics of the whole training set: 125.3, 123.0, 113.9 and 63.0, 62.1, 66.7.
    np.testing.assert_allclose(dataset.mean, [125.3, 123.0, 113.9], atol=1.5)
    np.testing.assert_allclose(dataset.std, [63.0, 62.1, 66.7], atol=1.5)


def test_real_cifar100(real_images):
    dataset = load_dataset("cifar100", real_images / "cifar-100-python")
    assert dataset.num_classes == 100
    assert dataset.class_names[:2] == ("apple", "aquarium_fish")
    assert [len(split) for split in splits(dataset)] == [437, 49, 916]
    # Its files open with a bos_taurus and a volcano.
    assert dataset.class_names[dataset.test.labels[0]] in ("mountain", "volcano")


# ---- Statistics --------------------------------------------------------------------------------------------


def test_statistics_are_those_of_the_training_images(tmp_path):
    dataset = load_dataset("cifar10", write_folder(tmp_path, "cifar10"))
    pixels = dataset.train.images.reshape(-1, 3).astype(np.float64)
    assert dataset.mean.dtype == dataset.std.dtype == np.float32
    np.testing.assert_allclose(dataset.mean, pixels.mean(0), rtol=1e-6)
    np.testing.assert_allclose(dataset.std, pixels.std(0), rtol=1e-6)
    prepared = dataset.prepare(dataset.train.images)
    assert prepared.dtype == np.float32 and prepared.shape == dataset.train.images.shape
    np.testing.assert_allclose(prepared.reshape(-1, 3).mean(0, np.float64), 0, atol=1e-5)
    np.testing.assert_allclose(prepared.reshape(-1, 3).std(0, np.float64), 1, atol=1e-5)


# ---- Your own images ---------------------------------------------------------------------------------------


def write_images(folder, count, size=(40, 50), suffix="png", first=0):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(first)
    for number in range(count):
        pixels = rng.integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.{suffix}")


def test_folder_is_split_by_class_and_seed(tmp_path):
    write_images(tmp_path / "cats", 30)
    write_images(tmp_path / "dogs", 10, first=1)
    (tmp_path / "README.txt").write_text("about these images")
    (tmp_path / "cats" / ".DS_Store").write_bytes(b"litter")
    dataset = load_dataset(f"folder:{tmp_path}")
    assert dataset.class_names == ("cats", "dogs")
    assert [np.bincount(split.labels).tolist() for split in splits(dataset)] == [[24, 8], [3, 1], [3, 1]]
    assert dataset.image_shape == (32, 32, 3) and dataset.copy == "unverified"
    seen = [rows_as_set(split.images) for split in splits(dataset)]
    assert len(seen[0] | seen[1] | seen[2]) == 40
    assert load_dataset(f"folder:{tmp_path}").fingerprint == dataset.fingerprint
    assert rows_as_set(load_dataset(f"folder:{tmp_path}", seed=1).test.images) != seen[2]


def test_folder_keeps_the_splits_it_finds(tmp_path):
    write_images(tmp_path / "train" / "a", 20)
    write_images(tmp_path / "train" / "b", 20, first=1)
    write_images(tmp_path / "test" / "a", 1, first=2)
    write_images(tmp_path / "test" / "b", 2, first=3)
    dataset = load_dataset(f"folder:{tmp_path}")
    assert [np.bincount(split.labels).tolist() for split in splits(dataset)] == [[18, 18], [2, 2], [1, 2]]
    write_images(tmp_path / "validation" / "a", 3, first=4)
    write_images(tmp_path / "validation" / "b", 3, first=5)
    dataset = load_dataset(f"folder:{tmp_path}")
    assert [np.bincount(split.labels).tolist() for split in splits(dataset)] == [[20, 20], [3, 3], [1, 2]]
    (tmp_path / "validation" / "c").mkdir()
    with pytest.raises(ValueError, match=r"validation.*'c'"):
        load_dataset(f"folder:{tmp_path}")


def test_folder_reads_what_pillow_reads_and_keeps_the_centre(tmp_path):
    for label in ("left", "right"):
        (tmp_path / label).mkdir()
        for number in range(10):
            (tmp_path / label / f"{number}.png").write_bytes(b"")
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = (200, 100, 50)  # the centre square; what lies beside it must not be seen
    image = Image.fromarray(wide)
    clear = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    turned = Image.fromarray(np.ascontiguousarray(wide.transpose(1, 0, 2)))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown rotated by a quarter turn
    for label in ("left", "right"):
        folder = tmp_path / label
        image.save(folder / "0.png")
        image.convert("P", palette=Image.Palette.ADAPTIVE).save(folder / "1.png", format="GIF")
        image.save(folder / "2.png", format="BMP")
        image.save(folder / "3.png", format="WEBP", lossless=True)
        clear.save(folder / "4.png")
        Image.new("L", (16, 16), 77).save(folder / "5.png")
        turned.save(folder / "6.png", format="TIFF", exif=exif)
        for number in (7, 8, 9):
            image.save(folder / f"{number}.png")
    dataset = load_dataset(f"folder:{tmp_path}", image_size=16)
    images = np.concatenate([split.images for split in splits(dataset)])
    assert images.shape == (20, 16, 16, 3)
    colours = sorted(tuple(image[8, 8].tolist()) for image in images)
    assert colours == sorted([(200, 100, 50)] * 16 + [(255, 255, 255)] * 2 + [(77, 77, 77)] * 2)
    # Scaling blends the outermost columns a little with what lies beside the centre.
    assert all((image[:, 3:-3] == image[8, 8]).all() for image in images)


def test_a_bad_image_is_named(tmp_path):
    write_images(tmp_path / "a", 12)
    write_images(tmp_path / "b", 12, first=1)
    bad = tmp_path / "b" / "005.png"
    good = bad.read_bytes()
    for content in (b"no image", b"", good[: len(good) // 2]):
        bad.write_bytes(content)
        with pytest.raises(ValueError, match=r"b.005\.png"):
            load_dataset(f"folder:{tmp_path}")
    Image.fromarray(np.full((40, 40), 40_000, np.uint16)).save(bad)
    with pytest.raises(ValueError, match=r"b.005\.png.*8 bits"):
        load_dataset(f"folder:{tmp_path}")


def test_a_class_with_too_few_images_is_named(tmp_path):
    write_images(tmp_path / "many", 20)
    write_images(tmp_path / "few", 9, first=1)
    with pytest.raises(ValueError, match="few holds 9 images; at least 10"):
        load_dataset(f"folder:{tmp_path}")
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="none holds no image"):
        load_dataset(f"folder:{tmp_path}")


def test_a_folder_without_classes_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_dataset(f"folder:{tmp_path / 'nowhere'}")
    with pytest.raises(ValueError, match="at least two"):
        load_dataset(f"folder:{tmp_path}")


# ---- Label noise -------------------------------------------------------------------------------------------


def test_the_transition_matrix_is_the_papers():
    matrix = transition_matrix(0.3, 10)
    assert matrix.shape == (10, 10)
    np.testing.assert_allclose(np.diag(matrix), 0.7)
    np.testing.assert_allclose(matrix[~np.eye(10, dtype=bool)], 0.3 / 9)
    np.testing.assert_allclose(matrix.sum(1), 1)
    np.testing.assert_array_equal(transition_matrix(0, 4), np.eye(4))


@pytest.mark.parametrize("level", [0.1, 0.7])
def test_corrupted_labels_follow_the_matrix(level):
    labels = np.repeat(np.arange(10), 20_000)
    corrupted = corrupt_labels(labels, level, 10, seed=3)
    counts = np.zeros((10, 10))
    np.add.at(counts, (labels, corrupted), 1)
    expected = transition_matrix(level, 10)
    error = np.sqrt(expected * (1 - expected) / 20_000)
    assert (np.abs(counts / 20_000 - expected) < 4.5 * error).all()  # 100 entries: one in 1,500 seeds fails


def test_corruption_is_reproducible_nested_and_leaves_the_input_alone():
    labels = np.random.default_rng(0).integers(0, 10, 5000).astype(np.uint8)
    kept = labels.copy()
    low, high = (corrupt_labels(labels, level, 10, seed=1) for level in (0.2, 0.6))
    np.testing.assert_array_equal(labels, kept)
    np.testing.assert_array_equal(low, corrupt_labels(labels, 0.2, 10, seed=1))
    assert low.dtype == np.int64
    assert (low != corrupt_labels(labels, 0.2, 10, seed=2)).any()
    np.testing.assert_array_equal(high[low != labels], low[low != labels])
    clean = corrupt_labels(labels, 0, 10, seed=1)
    np.testing.assert_array_equal(clean, labels)
    assert clean is not labels and not np.shares_memory(clean, labels)
    assert (corrupt_labels(labels, 1, 10, seed=1) != labels).all()


@pytest.mark.parametrize("level", [-0.1, 1.01, 30, float("nan"), "high", None])
def test_a_noise_level_outside_0_to_1_is_refused(level):
    for call in (
        lambda: corrupt_labels(np.zeros(3, int), level, 10, 0),
        lambda: transition_matrix(level, 10),
    ):
        with pytest.raises(ValueError, match=f"level must be a number at least 0 and at most 1; received {level!r}"):
            call()


def test_labels_and_classes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="0 to 10"):
        corrupt_labels(np.array([0, 10]), 0.1, 10, 0)
    with pytest.raises(ValueError, match="float64"):
        corrupt_labels(np.array([0.0, 1.0]), 0.1, 10, 0)
    with pytest.raises(ValueError, match="num_classes must be a whole number of at least 2; received 1"):
        transition_matrix(0.1, 1)


# ---- Augmentation ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("height, width", [(32, 32), (7, 12)])
def test_every_augmented_image_is_a_crop_of_the_padded_one_or_its_mirror(dtype, height, width):
    rng = np.random.default_rng(0)
    images = rng.integers(1, 256, (200, height, width, 3)).astype(dtype)
    kept = images.copy()
    result = augment(images, rng)
    np.testing.assert_array_equal(images, kept)
    assert result.dtype == dtype and result.shape == images.shape
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    found = set()
    for image, whole in zip(result, padded, strict=True):
        crops = {
            (top, left, mirrored): crop[:, ::-1] if mirrored else crop
            for top in range(9)
            for left in range(9)
            for crop in [whole[top : top + height, left : left + width]]
            for mirrored in (False, True)
        }
        matches = [key for key, crop in crops.items() if np.array_equal(crop, image)]
        assert len(matches) == 1
        found.add(matches[0])
    tops, lefts, mirrored = (set(values) for values in zip(*found, strict=True))
    assert tops == lefts == set(range(9)) and mirrored == {False, True}


def test_augment_pads_with_the_value_given():
    images = np.full((50, 8, 8, 3), 9, np.uint8)
    result = augment(images, np.random.default_rng(0), pad_value=np.array([1.2, 2.6, 3.5]))
    assert {tuple(pixel) for pixel in result.reshape(-1, 3).tolist()} == {(9, 9, 9), (1, 3, 4)}


def test_augment_can_leave_the_handedness_alone():
    images = np.random.default_rng(0).integers(0, 256, (100, 5, 20, 3), np.uint8)
    unmirrored = augment(images, np.random.default_rng(0), pad=0, mirror=False)
    np.testing.assert_array_equal(unmirrored, images)
    mirrored = (augment(images, np.random.default_rng(0), pad=0) != images).any((1, 2, 3))
    assert 30 < mirrored.sum() < 70


def test_augment_is_reproducible_and_checks_its_input():
    images = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8)
    first, again, other = (augment(images, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert augment(images[:0], np.random.default_rng(0)).shape == (0, 16, 16, 3)
    with pytest.raises(ValueError, match=r"\(16, 16, 3\)"):
        augment(images[0], np.random.default_rng(0))
    with pytest.raises(ValueError, match="pad must be a whole number of at least 0; received -1"):
        augment(images, np.random.default_rng(0), pad=-1)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_augment_is_fast_enough_not_to_be_noticed(dtype):
    images, rng = np.ones((64, 32, 32, 3), dtype), np.random.default_rng(0)

    def seconds():
        start = time.perf_counter()
        augment(images, rng)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(100)) < 2e-3  # 0.35 ms here; the best of many, on a busy machine
