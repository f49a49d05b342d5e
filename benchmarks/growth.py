"""Measure how time and memory of training grow with depth, batch size and image size, and print the slopes.

    python benchmarks/growth.py --output book/results/speed/NAME.json

Each point is a training run by `training.fit` in a process of its own (see `worker.py`). The points of one question are
measured in turns, like the systems of `run.py`. A slope is that of the straight line through the points: the cost of
one more unit; next to it stands how far the points lie from the line, as a share of the largest. Gradient checkpointing
is asked of the same networks, each with and without it.
"""

import argparse
from pathlib import Path

import numpy as np
import run

from ranet_lib import counting

FAMILY = ("attention_56", "attention_92", "attention_128", "attention_164", "attention_236", "attention_452")
#: For each question the points, and what the cost is set against: a number for each point, and its name.
QUESTIONS = {
    "depth": (None, "MFLOP per image"),  # the networks are asked for
    "checkpointing": (None, "MFLOP per image"),
    "batch size": ([{"batch_size": size} for size in (8, 16, 32, 64, 128)], "images per step"),
    "image size": ([{"image_size": size} for size in (16, 32, 48, 64, 96)], "pixels per image"),
}
SIZE = {
    "MFLOP per image": lambda point: counting.describe(point["network"])["flops"] / 1e6,
    "images per step": lambda point: point["batch_size"],
    "pixels per image": lambda point: point["image_size"] ** 2,
}


def line(sizes, costs):
    """Slope and offset of the least-squares line, and its largest distance from a point as a share of the last cost."""
    slope, offset = np.polyfit(sizes, costs, 1)
    distance = np.abs(np.polyval((slope, offset), sizes) - costs).max() / max(costs)
    return float(slope), float(offset), float(distance)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", nargs="+", choices=QUESTIONS, default=list(QUESTIONS))
    parser.add_argument(
        "--networks", nargs="+", choices=FAMILY, default=FAMILY, help="for the questions of depth and checkpointing"
    )
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    results = []
    for question in asked.questions:
        points, unit = QUESTIONS[question]
        if question == "depth":
            points = [{"network": name} for name in asked.networks]
        elif question == "checkpointing":
            points = [{"network": name, "checkpointing": on} for name in asked.networks for on in (False, True)]
        found = run.compare(
            [
                {
                    "system": "keras-tensorflow", "task": "training", "network": "attention_56",
                    "precision": "float32", "batch_size": asked.batch_size, "image_size": 32,
                    "checkpointing": False, **point,
                }
                for point in points
            ],
            asked.repeats, asked.seconds, quiet=True,
        )  # fmt: skip
        results += [{"question": question, "unit": unit, "size": SIZE[unit](result), **result} for result in found]
        print(table(results, question), end="\n\n", flush=True)
    if asked.output:
        run.write(asked.output, asked.repeats, asked.seconds, results)


def table(results, question):
    """The points of a question and their slopes, as lines of text."""
    points = [result for result in results if result["question"] == question]
    if not points:
        return f"{question}: nothing could be measured"
    sizes = [point["size"] for point in points]
    seconds = [point["batch_size"] / np.median(point["images_per_second"]) for point in points]
    memory = [point["peak_memory"] / 2**20 for point in points]
    lines = [f"{question}: {points[0]['unit']}   seconds per step   peak memory"]
    for point, size, cost, peak in zip(points, sizes, seconds, memory):
        lines.append(f"{size:12.4g} {cost:12.3f} s {peak:12.0f} MiB{'  checkpointing' * point['checkpointing']}")
    if question == "checkpointing":
        return "\n".join(lines)
    for name, costs in (("s", seconds), ("MiB", memory)):
        slope, offset, distance = line(sizes, costs)
        lines.append(f"one more: {slope:.3g} {name}, from {offset:.3g} {name}; off the line by at most {distance:.0%}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
