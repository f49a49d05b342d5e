"""The helper library of the book *Residual attention, step by step*.

A reader reads `datasets, blocks, models, counting, training, masks`, in the order of the book. `runs` and `show` are
the plumbing, which keeps what was run and shows what was found.
"""

import os
import sys

# TensorFlow reads this when it is first imported; a value set by the user wins. It leaves oneDNN off on processors
# without VNNI instructions, where oneDNN trains these networks up to twice as fast.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# Several processes may share a GPU: none takes all of its memory before it needs it.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
# Warnings and errors, but not what is for information only; 0 shows that too.
if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1") != "0" and "tensorflow" not in sys.modules:
    from ranet_lib._quiet import QuietTensorFlow
    sys.meta_path.insert(0, QuietTensorFlow)

__version__ = "0.1.0"
