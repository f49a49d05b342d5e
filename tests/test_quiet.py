"""What TensorFlow says as it is imported: a package that only speaks takes its place."""

import os
import subprocess
import sys

import pytest

FOR_INFORMATION = """\
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1769860800.000000   12345 port.cc:153] oneDNN custom operations are on.
2026-01-31 12:00:00.123456: I tensorflow/core/util/port.cc:153] oneDNN custom operations are on.
"""
WARNINGS = """\
W0000 00:00:1769860800.000000   12345 gpu_device.cc:2341] Cannot dlopen some GPU libraries.
2026-01-31 12:00:00.123456: E tensorflow/core/util/port.cc:153] Something is wrong.
I would like to say something, too.
"""


@pytest.fixture
def said(tmp_path):
    """Runs a line of Python that imports such a package; returns what came out on stderr, and the exit status."""

    def said(code, last="", **environment):
        (tmp_path / "tensorflow.py").write_text(
            f"import os\nos.write(2, {(FOR_INFORMATION + WARNINGS).encode()})\n{last}\n", encoding="utf-8"
        )
        names = "TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS"
        unset = {name: value for name, value in os.environ.items() if name not in names}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True,
            env=unset | {"PYTHONPATH": str(tmp_path)} | environment,
        )  # fmt: skip
        return done.stderr, done.returncode

    return said


def test_only_what_is_for_information_is_left_out(said):
    later = "import os; os.write(2, b'I0000 00:00 later')"
    assert said(f"import ranet_lib, tensorflow; {later}") == (WARNINGS + "I0000 00:00 later", 0)


def test_a_look_for_tensorflow_changes_nothing(said):
    code = "import ranet_lib, importlib.util; importlib.util.find_spec('tensorflow'); import tensorflow"
    assert said(code) == (WARNINGS, 0)


@pytest.mark.parametrize("end", ["raise ImportError('no library')", "os.abort()"])
def test_the_reason_of_an_import_that_fails_is_seen(end, said):
    text, status = said("import ranet_lib, tensorflow", end)
    assert text.startswith(WARNINGS) and status
    assert ("no library" in text) == ("no library" in end)


def test_users_who_ask_for_all_or_import_it_first_see_all(said):
    everything = (FOR_INFORMATION + WARNINGS, 0)
    assert said("import ranet_lib, tensorflow", TF_CPP_MIN_LOG_LEVEL="0") == everything
    assert said("import tensorflow, ranet_lib, sys; assert 'Quiet' not in str(sys.meta_path)") == everything


def test_what_the_user_has_set_stays(said):
    names = "TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS"
    code = f"import os, sys, ranet_lib; print(*map(os.environ.get, {names}), file=sys.stderr)"
    assert said(code)[0] == "1 1\n"
    assert said(code, TF_CPP_MIN_LOG_LEVEL="2", TF_ENABLE_ONEDNN_OPTS="0")[0] == "2 0\n"
