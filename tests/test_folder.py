"""Images of one's own, as people have them: names of folders, litter, odd tags, deep colours, large sizes."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from small_cifar import rows_as_set, splits

from ranet_lib import datasets, runs, show, training
from ranet_lib.datasets import load_dataset


def write(folder, count=12, colour=(10, 20, 30), size=8):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (size, size), tuple((value + 7 * number) % 256 for value in colour)).save(
            folder / f"{number:03}.png"
        )


def load(folder, **options):
    return datasets.load_dataset(f"folder:{folder}", image_size=options.pop("image_size", 8), **options)


@pytest.mark.parametrize(
    "names",
    [("train", "val", "test"), ("Train", "Valid", "Test"), ("training", "dev", "testing"), ("TRAIN", "validation")],
)
def test_the_usual_names_of_splits_are_taken_for_what_they_are(tmp_path, names):
    for number, name in enumerate(names):
        for label in ("cat", "dog"):
            write(tmp_path / name / label, 20 if number == 0 else 3 + number)
    found = load(tmp_path)
    assert found.class_names == ("cat", "dog")
    lengths = [len(found.train), len(found.validation), len(found.test)]
    assert lengths == ([40, 8, 10] if len(names) == 3 else [36, 8, 4])


def test_a_class_may_be_called_like_a_split(tmp_path):
    for label in ("bus", "train", "test"):
        write(tmp_path / label, 20)
    assert load(tmp_path).class_names == ("bus", "test", "train")


def test_two_folders_for_one_split_and_folders_that_are_none_are_named(tmp_path):
    for name in ("train", "val", "dev"):
        for label in ("cat", "dog"):
            write(tmp_path / name / label)
    with pytest.raises(ValueError, match="holds dev and val, which both mean validation; keep one"):
        load(tmp_path)
    (tmp_path / "val").rename(tmp_path / "extra")
    with pytest.raises(ValueError, match="holds extra beside its splits; their names are train, training, validation,"):
        load(tmp_path)


def test_litter_is_no_class_and_no_image(tmp_path):
    for label in ("cat", "dog"):
        write(tmp_path / label)
        for name in ("Thumbs.db", "thumbs.DB", "Desktop.ini", ".DS_Store"):
            (tmp_path / label / name).write_bytes(b"litter")
    for name in ("__MACOSX", "@eaDir", ".git"):
        (tmp_path / name).mkdir()
    assert load(tmp_path).class_names == ("cat", "dog")


def jpeg_with_tags(path, tags):
    """A JPEG with a red left half and a blue right one, and these TIFF tags as `(number, type, count, value)`."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, :4, 0] = pixels[:, 4:, 2] = 255
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0)
    exif += struct.pack("<ii", -1, 0)
    Image.fromarray(pixels).save(path, quality=100, subsampling=0, exif=exif)


@pytest.mark.parametrize(
    "odd",
    [
        (0x011A, 10, 1, 8 + 2 + 2 * 12 + 4),  # a resolution of -1 / 0
        (0x011A, 2, 4, 0x00414243),  # text where a number belongs
        (0x8769, 4, 1, 0xFFFFFF00),  # a pointer out of the file
        (0x0131, 2, 9_999, 0xFFFFFF00),  # a text that ends nowhere
    ],
)
@pytest.mark.filterwarnings("ignore:Tag data larger than file")
def test_a_sound_picture_with_an_odd_tag_is_read_and_turned(tmp_path, odd):
    for label in ("cat", "dog"):
        write(tmp_path / label, 10)
        jpeg_with_tags(tmp_path / label / "odd.jpg", [(0x0112, 3, 1, 6), odd])
    images = np.concatenate([split.images for split in (load(tmp_path).train, load(tmp_path).validation)])
    turned = [image for image in images if image[1, 1, 0] > 200 and image[6, 6, 2] > 200 and image[1, 6, 0] > 200]
    upright = [image for image in images if image[6, 1, 0] > 200 and image[1, 6, 2] > 200]
    assert turned and not upright  # the red half was on the left


def png_16_bits(path):
    """A PNG of 16 bits per channel, which Pillow cannot write."""
    rows = b"".join(b"\0" + struct.pack(">24H", *[0x80FF] * 24) for _ in range(8))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def test_colours_of_16_bits_are_refused_and_not_cut(tmp_path):
    for label in ("cat", "dog"):
        write(tmp_path / label)
    png_16_bits(tmp_path / "dog" / "deep.png")
    with pytest.raises(ValueError, match=r"deep\.png cannot be read as an image: has 16 bits per channel"):
        load(tmp_path)
    (tmp_path / "dog" / "deep.png").unlink()
    Image.new("RGB", (8, 8)).save(tmp_path / "dog" / "sixteen.bmp")  # of 8 bits per channel
    assert len(load(tmp_path).train) > 0


@pytest.mark.parametrize("level, size, count", [(254, 259, 256), (255, 300, 320)])
def test_mean_and_spread_are_exact_for_many_large_bright_images(level, size, count):
    """Sums of squares that a 32-bit number does not hold."""
    images = np.full((count, size, size, 3), level, np.uint8)
    images[: count // 2, : size // 2] -= 200
    split = datasets.splits.Split(images, np.zeros(count, int))
    found = datasets.splits.make_dataset("large", split, split, split, ("one", "two"), "unverified")
    low = (count // 2) * (size // 2) / (count * size)
    assert found.mean == pytest.approx(level - 200 * low, rel=1e-6)
    assert found.std == pytest.approx(200 * np.sqrt(low * (1 - low)), rel=1e-5)


def test_a_name_that_is_no_unicode_is_refused_before_anything_is_read(tmp_path):
    write(tmp_path / "cat")
    try:
        write(tmp_path / os.fsdecode(b"dog\xff"))
    except OSError:
        pytest.skip("this file system takes no such name")
    with pytest.raises(ValueError, match="has a name that is not valid Unicode; rename it"):
        load(tmp_path)


def test_a_name_with_dollars_and_braces_is_drawn_kept_and_trained(tmp_path):
    names = ("$5_000_to_$10_000", "{x} \\frac <b>")
    for number, label in enumerate(names):
        write(tmp_path / "data" / label, 24, colour=(100 * number, 20, 30), size=32)
    data = load(tmp_path / "data", image_size=32)
    recipe = training.recipe("smoke", epochs=1, batch_size=8, train_images=16)
    from ranet_lib import models

    network = models.create_model("resnet_tiny", data.num_classes, width=0.25)
    history = training.fit(network, data, recipe, tmp_path / "run", progress=False)
    test = training.test_errors(network, data, history, tmp_path / "run")
    runs.write_record(tmp_path / "record.json", runs.make_record(network, data, recipe, history, test))
    assert runs.read_record(tmp_path / "record.json")["dataset"]["classes"] == sorted(names)
    show.image_grid(data.test.images[:2], [data.class_names[label] for label in data.test.labels[:2]])


# ---- Splits, and what Pillow reads ---------------------------------------------------------------------------


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
