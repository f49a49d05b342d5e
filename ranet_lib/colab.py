"""What the first cell of a chapter says in Google Colab."""

from ranet_lib import records

NO_GPU = """\
No GPU. The chapters do not need one; for longer training switch one on: menu Runtime > Change runtime type > T4 GPU.
Colab then starts afresh, so run this cell again."""


def report():
    """Print the versions that matter, the device, and, without a GPU, the way to one."""
    found = records.environment()
    print(", ".join(f"{package} {version}" for package, version in found["packages"].items() if version))
    print("device:", found["device"])
    if "gpu" not in found["device_kind"]:
        print(NO_GPU)
