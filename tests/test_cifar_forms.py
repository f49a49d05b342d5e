"""CIFAR as people have it: repacked, renamed, relabelled."""

import gzip
import io
import pickle
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from small_cifar import official_files, planes, small_cifar, write_archive, write_folder

from ranet_lib.datasets import load_dataset
from ranet_lib.files.pickles import unpickle_arrays


@pytest.fixture
def expected(tmp_path):
    return load_dataset("cifar10", write_folder(tmp_path / "usual", "cifar10"))


def pack(path, folder, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for file, data in official_files("cifar10", "protocol 4").items():
            member = tarfile.TarInfo(f"{folder}{file}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("folder", ["", "./", "download/cifar-10-batches-py/", "CIFAR10/"])
@pytest.mark.parametrize("mode", ["w:gz", "w", "w:xz"])
def test_an_archive_that_somebody_has_packed_again(tmp_path, expected, folder, mode):
    path = pack(tmp_path / "cifar-10-python.tar.gz", folder, mode)
    assert load_dataset("cifar10", path).fingerprint == expected.fingerprint
    assert load_dataset("cifar10", tmp_path).fingerprint == expected.fingerprint


def test_the_second_download_of_a_browser_and_the_folders_of_keras(tmp_path, expected):
    (tmp_path / "downloads").mkdir()
    write_archive(tmp_path / "downloads", "cifar10").rename(tmp_path / "downloads" / "cifar-10-python (1).tar.gz")
    kept = tmp_path / "keras" / "datasets" / "cifar-10-batches-py-target"
    write_folder(kept, "cifar10")
    for place in (tmp_path / "downloads", tmp_path / "downloads" / "cifar-10-python (1).tar.gz", kept, kept.parent):
        assert load_dataset("cifar10", place).fingerprint == expected.fingerprint


def test_a_page_in_place_of_an_archive_is_no_archive(tmp_path):
    path = tmp_path / "cifar-10-python.tar.gz"
    with gzip.open(path, "wb") as file:
        file.write(b"<html>please log in</html>" * 100)
    with pytest.raises(ValueError, match=r"cifar-10-python\.tar\.gz is damaged or cut short"):
        load_dataset("cifar10", path)


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize(
    "labels", [list, np.asarray, lambda array: array.astype(np.uint8)], ids=["list", "array", "uint8"]
)
def test_batches_relabelled_with_numpy(tmp_path, expected, protocol, labels):
    folder = write_folder(tmp_path / "relabelled", "cifar10")
    for file, (images, given) in small_cifar("cifar10").items():
        batch = {"batch_label": "mine", "labels": labels(given), "data": planes(images), "filenames": []}
        (folder / file).write_bytes(pickle.dumps(batch, protocol))
    found = load_dataset("cifar10", folder)
    assert found.fingerprint == expected.fingerprint and found.copy == "unverified"


@pytest.mark.parametrize("old, new", [(b"numpy._core", b"numpy.core"), (b"numpy.core", b"numpy._core")])
def test_numbers_and_arrays_of_numpy_1_and_2_are_read(old, new):
    content = {"labels": list(np.arange(5, dtype=np.int16)), "data": np.arange(6, dtype=np.uint8)}
    for protocol in (2, 3):  # whose names are plain text, ended by a line
        read = unpickle_arrays(pickle.dumps(content, protocol).replace(old, new))
        assert read["labels"] == [0, 1, 2, 3, 4] and all(type(label) is int for label in read["labels"])
        assert read["data"].tolist() == list(range(6))


def test_floats_are_still_refused():
    with pytest.raises(ValueError, match="only integers are read"):
        unpickle_arrays(pickle.dumps({"labels": list(np.arange(3.0))}, 4))


def test_published_labels_find_their_images_by_the_official_order(expected):
    """As CIFAR-N has them: one label for each training image, in the order of the files."""
    *train, _ = small_cifar("cifar10").values()
    images = np.concatenate([images for images, _ in train])
    labels = np.concatenate([labels for _, labels in train])
    for split in (expected.train, expected.validation):
        np.testing.assert_array_equal(split.images, images[split.places])
        np.testing.assert_array_equal(split.labels, labels[split.places])
    together = np.concatenate([expected.train.places, expected.validation.places])
    assert sorted(together) == list(range(len(labels))) and expected.test.places is None


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs tar")
def test_what_tar_itself_packs(tmp_path, expected):
    folder = write_folder(tmp_path / "source", "cifar10")
    path = tmp_path / "cifar-10-python.tar.gz"
    subprocess.run(["tar", "czf", path, "-C", folder.parent, folder.name], check=True, stdout=sys.stderr)
    assert load_dataset("cifar10", path).fingerprint == expected.fingerprint
