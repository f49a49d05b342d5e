"""What the first cell of a chapter says in Google Colab."""

from ranet_lib import runs


def report():
    """Print the versions that matter, the device, and, without a GPU, the way to one."""
    found = runs.environment()
    print(f"ranet_lib {found['ranet_lib']}, Keras {found['keras']}, {found['backend']}, Python {found['python']}")
    print("device:", found["device"])
    if found["device"].startswith("CPU"):
        print("No GPU. The chapters do not need one; for longer training switch one on: menu Runtime > Change runtime "
              "type > T4 GPU.\nColab then starts afresh, so run this cell again.")  # fmt: skip
