"""Measure the masks and mistakes of a network that ships, on images of its data set, for the book's pages.

    python book/experiments/look.py NAME --data-dir DIR

CIFAR is not part of this project, and most readers of a page do not have it beside them. So what the chapters say about
masks on CIFAR is measured here, on the validation images, and kept in book/results/looks/NAME.json: how strongly each
stage responds, what the masks consist of, what is lost when they are exchanged, and the most confident mistakes. An
existing record is replaced only by one of other weights.
"""

import argparse
import datetime
import json
import sys
from pathlib import Path

import keras
import numpy as np
import pooch
from scipy.special import softmax

from ranet_lib import blocks, datasets, files, masks, runs, training

LOOKS = Path(__file__).resolve().parents[1] / "results" / "looks"
OF_A_CLASS = 25  # images, on average, that exchange their masks among each other
MISTAKES = 24


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=runs.list_pretrained())
    parser.add_argument("--data-dir", help="folder with CIFAR, as in the experiment notebook")
    parser.add_argument("--images", type=int, default=5000, help="at most so many validation images")
    parser.add_argument("--folder", type=Path, default=LOOKS, help="default: book/results/looks")
    asked = parser.parse_args(arguments)
    about = runs.pretrained_record(asked.name)
    together = OF_A_CLASS * about["model"]["num_classes"]
    if asked.images < together:
        parser.error(f"--images must be at least {together}, as many as exchange masks; received {asked.images}")
    weights = pooch.file_hash(runs.PRETRAINED / f"{asked.name}.npz")
    path = asked.folder / f"{asked.name}.json"
    if path.exists() and json.loads(path.read_text(encoding="utf-8"))["weights"] == weights:
        parser.error(f"{path} is there already, for these weights")
    try:
        data = datasets.load_dataset(about["dataset"]["name"], asked.data_dir, seed=about["seed"])
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if data.fingerprint != about["dataset"]["fingerprint"]:
        parser.error(f"the network was trained on other data than this {data.name} ({data.copy})")
    record = {"name": asked.name, "weights": weights, **look(asked.name, data, asked.images)}
    asked.folder.mkdir(parents=True, exist_ok=True)
    files.write_text(path, json.dumps(record, indent=1, allow_nan=False) + "\n")
    print(path)
    return 0


def look(name, data, images):
    """Everything that the record says of the network `name` on the first validation images of `data`."""
    split = data.validation.take(slice(images))
    network, prepared = runs.load_pretrained(name), data.prepare(split.images)
    described = runs.pretrained_record(name)["model"]
    return {
        "data": {"name": data.name, "copy": data.copy, "fingerprint": data.fingerprint, "split": "validation",
                 "seed": runs.pretrained_record(name)["seed"], "images": len(split)},
        "error": training.evaluate(network, data, split)["error"],
        "mean_response": [float(f"{value:.4g}") for value in masks.mean_response(network, prepared)],
        "masks": [described_mask(mask) for mask in masks.attention_masks(network, prepared[:500], channels=True)],
        "exchanged": exchanged(network, prepared, split.labels, OF_A_CLASS * described["num_classes"]),
        "mistakes": mistakes(network, prepared, split.labels, data.class_names),
        "environment": runs.environment(),
        "finished": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }  # fmt: skip


def described_mask(mask):
    """Size and values of one module's mask `(images, height, width, channels)`, and which share varies with what."""
    mask = mask.astype("float64")
    channel = mask.mean(axis=(0, 1, 2))
    place = mask.mean(axis=0)
    variance = mask.var()
    return {
        "shape": list(mask.shape[1:]),
        "mean": round(float(mask.mean()), 4),
        "lowest_tenth": round(float(np.quantile(mask, 0.1)), 4),
        "highest_tenth": round(float(np.quantile(mask, 0.9)), 4),
        "share_of_channel": round(float(channel.var() / variance), 4),
        "share_of_channel_and_place": round(float(place.var() / variance), 4),
        "share_of_image": round(float(1 - place.var() / variance), 4),
    }


def flat(mask, labels):
    return keras.ops.mean(mask, axis=(1, 2), keepdims=True) + 0 * mask


def swapped(mask, labels):
    return keras.ops.roll(mask, 1, axis=0)


def same_class(mask, labels):
    partner = np.arange(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        partner[members] = np.roll(members, 1)
    return keras.ops.take(mask, partner, axis=0)


def exchanged(network, prepared, labels, together):
    """The error when the masks of one module, or of all, are exchanged in each way of the book's chapter on it.

    Images exchange masks in groups of `together`. An image that is alone of its class in its group keeps its own mask
    as the one of its class, so a group has many images of each class.
    """
    modules = len(masks.attention_modules(network))
    whole = len(prepared) // together * together
    found = {}
    for kind in (flat, swapped, same_class):
        places = [[number] for number in range(modules)] + [list(range(modules))]
        found[kind.__name__] = {
            "all" if len(place) > 1 else f"module {place[0] + 1}": round(100 * float(np.mean([
                answers_with(network, kind, place, prepared[rows], labels[rows]) != labels[rows]
                for rows in np.arange(whole).reshape(-1, together)
            ])), 3)
            for place in places
        }  # fmt: skip
    return {"images": whole, "together": together, "error": found}


def answers_with(network, change, places, images, labels):
    """The network's answers with `change(mask, labels)` in place of the masks of the modules in `places`."""
    features, number = keras.ops.convert_to_tensor(images), 0
    for part in masks.parts(network):
        if isinstance(part, blocks.AttentionModule):
            features = blocks.apply_chain(part.pre, features)
            mask = part.mask(features)
            mask = change(mask, labels) if number in places else mask
            trunk = part.trunk(features)
            features = (1.0 + mask) * trunk if part.learning == "residual" else mask * trunk
            features = blocks.apply_chain(part.post, features)
            number += 1
        else:
            features = part(features)
    return keras.ops.convert_to_numpy(features).argmax(axis=-1)


def mistakes(network, prepared, labels, class_names):
    """The wrong answers of which the network was surest."""
    logits = network.predict(prepared, batch_size=250, verbose=0).astype("float64")
    probabilities = softmax(logits, axis=1)
    answers, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(answers != labels)
    return {
        "wrong": len(wrong),
        "right_and_surer_than_99": int(np.sum(sure[answers == labels] > 0.99)),
        "wrong_and_surer_than_99": int(np.sum(sure[wrong] > 0.99)),
        "surest": [
            {"image": int(row), "label": class_names[labels[row]], "answer": class_names[answers[row]],
             "probability": round(float(sure[row]), 5)}
            for row in wrong[np.argsort(-sure[wrong], kind="stable")][:MISTAKES]
        ],
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
