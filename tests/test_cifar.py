"""CIFAR in its official forms: what is read, what is refused, and what a crafted file cannot do."""

import dataclasses
import functools
import gzip
import hashlib
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from small_cifar import (
    ARCHIVES,
    CLASSES,
    PICKLERS,
    official_files,
    python2_pickle,
    rows_as_set,
    small_cifar,
    splits,
    write_archive,
    write_folder,
)

from ranet_lib import datasets
from ranet_lib.datasets import load_dataset
from ranet_lib.files import fetching

SHARED = Path(__file__).parents[2] / "shared" / "data"


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
        label_of = {image.tobytes(): label for file in train_files for image, label in zip(*content[file], strict=True)}
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
        ("batches.meta", "label_names", 5, "class names are not a list"),
        ("batches.meta", "label_names", "abcdefghij", "class names are not a list"),
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


def test_what_a_download_leaves_behind_is_no_archive(tmp_path):
    for rest in ("lock", "part"):
        (tmp_path / f"cifar-10-python.tar.gz.{rest}").touch()
    with pytest.raises(FileNotFoundError, match="no cifar10 in data_dir"):
        load_dataset("cifar10", tmp_path)


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
        if split.images[i, 0, 0].tolist() == [59, 62, 63] and split.images[i, -1, -1].tolist() == [123, 92, 72]
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
