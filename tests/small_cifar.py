"""CIFAR in each of its official forms, made small for the tests, and what they ask of a data set."""

import io
import pickle
import struct
import tarfile

import numpy as np

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
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"] if name == "cifar10" else ["train", "test"]
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
    label_key, names_key = ("labels", "label_names") if name == "cifar10" else ("fine_labels", "fine_label_names")
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


def splits(dataset):
    return dataset.train, dataset.validation, dataset.test


def rows_as_set(images):
    return {image.tobytes() for image in images}
