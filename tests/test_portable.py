"""What Windows, macOS and file systems without links do differently, played on whatever system the tests run on."""

import compileall
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace

import pytest
import without_make
from runs import ROOT

from ranet_lib import files, runs

RECORD = sorted((ROOT / "book" / "results").glob("*.json"))[0]


# --- Files -------------------------------------------------------------------------------------------------------


def test_only_files_opened_for_writing_are_flushed_to_disk(tmp_path, monkeypatch):
    """Windows refuses to flush a file that is open for reading."""
    fcntl = pytest.importorskip("fcntl")

    def fsync(descriptor):
        assert fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        flushed.append(descriptor)

    flushed = []
    monkeypatch.setattr(os, "fsync", fsync)
    files.write_text(tmp_path / "state.json", "{}")
    runs.write_record(tmp_path / "record.json", runs.read_record(RECORD))
    assert len(flushed) == 2


def test_without_hard_links_a_record_is_written_and_never_overwritten(tmp_path, monkeypatch):
    def link(*paths):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", link)
    record, path = runs.read_record(RECORD), tmp_path / "record.json"
    runs.write_record(path, record)
    assert runs.read_record(path) == record
    with pytest.raises(FileExistsError, match="never overwritten"):
        runs.write_record(path, record | {"seed": 7})
    assert runs.read_record(path) == record and list(tmp_path.iterdir()) == [path]


def test_a_run_is_named_after_its_folder_of_images_on_windows_too(monkeypatch):
    monkeypatch.setattr(runs.parameters, "Path", PureWindowsPath)
    run = runs.check_parameters({"output_dir": os.curdir}) | {"dataset": r"folder:C:\Users\me\my photos"}
    assert re.fullmatch("attention_micro-my_photos-first-seed0-[0-9a-f]{8}", runs.run_name(run))


@pytest.mark.slow
def test_nothing_is_imported_that_only_unix_has():
    """The library imports, and the tests are collected, without these modules and functions."""
    script = """
        import os, sys, types
        import hypothesis, papermill, platformdirs, pytest, selenium.webdriver, tensorflow  # these know the system
        for name in ("fcntl", "resource", "pwd", "grp", "termios"):
            sys.modules[name] = None
        sys.modules["msvcrt"] = types.ModuleType("msvcrt")
        for name in ("geteuid", "getuid", "killpg", "fork", "getpgid", "setsid"):
            delattr(os, name)
        from ranet_lib import datasets
        del sys.modules["msvcrt"]  # for the library alone
        sys.exit(pytest.main(["--collect-only", "--override-ini=addopts=", "-p", "no:cacheprovider", *sys.argv[1:]]))
    """
    modules = sorted(str(path) for path in (ROOT / "tests").glob("test_*.py"))
    command = [sys.executable, "-c", textwrap.dedent(script), *modules]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


# --- python -m ranet_lib -----------------------------------------------------------------------------------------


@pytest.fixture
def called(monkeypatch):
    """What would be started: the words after Python's `-m`, and the environment."""
    calls = []

    def run(words, cwd, env):
        assert words[0] == sys.executable
        assert cwd == (None if "papermill" in words else without_make.ROOT)  # whose paths are the user's
        calls.append((words[2:] if words[1] == "-m" else words[1:], env))
        return subprocess.CompletedProcess(words, 3)

    # Not subprocess.run itself, by which another thread may build the site meanwhile.
    monkeypatch.setattr(without_make, "subprocess", SimpleNamespace(run=run))
    return calls


def test_without_make_tests_are_pytest(called):
    assert without_make.main(["test", "-k", "masks", "-x"]) == 3  # the status is passed on
    ((words, environment),) = called
    assert words == ["pytest", "-k", "masks", "-x"] and environment["PYTHONUTF8"] == "1"


def test_without_make_a_run_is_papermill_on_the_experiment_notebook(called, tmp_path):
    folder = tmp_path / "new {run}"
    assert without_make.main(["train", str(folder), "-p", "model", "attention_56", "-p", "seed", "1"]) == 3
    ((words, _),) = called
    notebook = str(ROOT / "book" / "experiments" / "train.ipynb")
    given = ["-p", "output_dir", str(folder), "-p", "model", "attention_56", "-p", "seed", "1"]
    executed = str(folder / "train.ipynb").replace("{run}", "{{run}}")  # in which papermill sees no parameter
    assert words == ["papermill", notebook, executed, *given] and folder.is_dir()


def test_without_make_the_book_is_built_as_make_builds_it(called, tmp_path, monkeypatch):
    """The words are those of the Makefile, and what was kept of older builds goes when the library has changed."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    monkeypatch.setattr(without_make, "ROOT", tmp_path)
    module, experiments = tmp_path / "ranet_lib" / "blocks.py", tmp_path / "book" / "experiments"
    new, grid, run = module.parent / "new.py", experiments / "grid.yaml", experiments / "runs" / "a-run"
    for folder in (module.parent, tmp_path / "book" / "results", experiments):
        folder.mkdir(parents=True)
    module.touch()
    kept, site = tmp_path / "_build" / ".jupyter_cache", tmp_path / "_build" / "html"
    stamp = tmp_path / "_build" / "cache.stamp"

    def compile_all():
        compileall.compile_dir(module.parent, quiet=2)

    for change, empties in (
        (stamp.parent.mkdir, True), (lambda: None, False), (compile_all, False),
        (module.touch, True), (new.touch, True), (new.unlink, True), (stamp.unlink, True),
        (grid.touch, True), (lambda: run.mkdir(parents=True), False),
    ):  # fmt: skip
        for path in tmp_path.rglob("*"):
            os.utime(path, (1e9, 1e9))  # long ago
        change()
        kept.mkdir(exist_ok=True)
        site.mkdir(exist_ok=True)
        (kept / "global.db").touch()  # each build writes there
        assert without_make.main(["book"]) == 3
        assert kept.exists() is not empties and not site.exists()
    assert all(words == ["book/execute.py"] for words, _ in called)  # what it returns, 3, ends the build
    assert ".venv/bin/python book/execute.py\n" in makefile
    notebooks, (_, call, *words) = without_make.book(None, [])
    assert notebooks == ["book/execute.py"] and "jupyter_book" in call
    assert "jupyter-book build . -W -n --keep-going" in makefile and words[:2] == ["build", "."]
    assert {"--all", "-W", "-n", "--keep-going"} == set(words[2:])


@pytest.mark.parametrize(
    "words, message",
    [
        (["book", "--fast"], "book takes no options; received --fast"),
        (["bake"], "invalid choice: 'bake'"),
        (["train"], "required: FOLDER"),
        (["train", "-p", "seed", "1"], "FOLDER comes first, as in `train runs/first -p seed 1`; received '-p' there"),
        ([], "required"),
    ],
)
def test_without_make_wrong_words_are_refused(words, message, called, capsys):
    with pytest.raises(SystemExit):
        without_make.main(words)
    assert message in capsys.readouterr().err and not called


def test_python_m_ranet_lib_is_that_script_and_needs_the_repository(tmp_path):
    command = [sys.executable, "-m", "ranet_lib", "bake"]
    refused = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 2 and "invalid choice: 'bake'" in refused.stderr
    shutil.copytree(ROOT / "ranet_lib", tmp_path / "ranet_lib")  # as a wheel is installed
    refused = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 1 and "needs the repository" in refused.stderr and str(tmp_path) in refused.stderr


def test_without_make_a_missing_package_is_named_with_the_way_to_it(called, monkeypatch, capsys):
    monkeypatch.setitem(without_make.NEEDS, "train", "no_such_package")
    with pytest.raises(SystemExit):
        without_make.main(["train", "runs/first"])
    assert "pip install --editable" in capsys.readouterr().err and not called


def test_records_of_another_system_are_read(tmp_path):
    """As git or an editor on Windows may leave them: with other ends of lines."""
    path = tmp_path / "record.json"
    path.write_bytes(Path(RECORD).read_bytes().replace(b"\n", b"\r\n"))
    assert runs.read_record(path) == runs.read_record(RECORD)


def test_a_folder_that_cannot_be_made_or_holds_a_finished_run_is_named(tmp_path):
    (tmp_path / "record.json").touch()
    with pytest.raises(SystemExit, match="train needs a folder without a finished run; .* holds a record.json"):
        without_make.main(["train", str(tmp_path)])
    with pytest.raises(SystemExit, match="train needs a folder that can be made"):
        without_make.main(["train", f"{__file__}/run"])
