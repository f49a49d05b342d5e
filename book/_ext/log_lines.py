"""The lines that TensorFlow, XLA and the kernels of Jupyter log when all is well, and that nobody needs to read."""

import re

# "2026-01-31 12:00:00.000000: I tensorflow/...", "I0000 00:00:1700000000.000000 123 cuda.cc:1] ...", the two sentences
# that go with them and carry no date. And of a kernel: how it is spoken to on its own machine, and that it was asked to
# stop, which is how each of them ends.
LOG_LINE = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IWE] "
    r"|[IWE]\d{4} \d\d:\d\d:\d+\.\d+ "
    r"|WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR"
    r"|To enable the following instructions: .*rebuild TensorFlow with the appropriate compiler flags\."
    r"|\[IPKernelApp\] (?:WARNING \| Kernel is running over TCP|ERROR \| KeyboardInterrupt caught in kernel)"
)


def without_log_lines(text):
    """A text without its log lines; empty when only blank lines are left."""
    kept = "".join(line for line in text.splitlines(keepends=True) if not LOG_LINE.match(line))
    return kept if kept.strip() else ""


def warnings_on_stdout(text):
    """The lines of a text that TensorFlow warns with, which in a kernel go to stdout."""
    return [line for line in text.splitlines() if line.startswith("WARNING:")]
