"""The log lines with which TensorFlow, XLA and the kernels of Jupyter start, and which nobody needs to read."""

import re

# "2026-01-31 12:00:00.000000: I tensorflow/...", "I0000 00:00:1700000000.000000 123 cuda.cc:1] ...", the two sentences
# that go with them and carry no date, and what a kernel says of the sockets of its own machine.
LOG_LINE = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IWE] "
    r"|[IWE]\d{4} \d\d:\d\d:\d+\.\d+ "
    r"|WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR"
    r"|To enable the following instructions: .*rebuild TensorFlow with the appropriate compiler flags\."
    r"|\[IPKernelApp\] WARNING \| Kernel is running over TCP without encryption\."
)


def without_log_lines(text):
    """A text without its log lines; empty when only blank lines are left."""
    kept = "".join(line for line in text.splitlines(keepends=True) if not LOG_LINE.match(line))
    return kept if kept.strip() else ""
