"""What make does, where there is no make: `python -m ranet_lib book`, `test` or `train FOLDER`, in the repository.

First, in an environment of your own:

    python -m pip install --editable ".[book,lab,test,batch,cpu]" --constraint requirements.lock
"""

import argparse
import compileall
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
JUPYTER_BOOK = ["-c", "from jupyter_book.cli.main import main; main()"]  # which `-m` cannot start
NEEDS = {"book": "jupyter_book", "test": "pytest", "train": "papermill"}


def main(arguments=None):
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m ranet_lib", description=__doc__, formatter_class=form)
    commands = parser.add_subparsers(dest="command", required=True, metavar="book | test | train")
    commands.add_parser("book", help="run every chapter and build the site in _build/html")
    commands.add_parser("test", help="run the quick tests; more words are pytest's options",
                        usage="%(prog)s [-h] [options of pytest]", epilog="For example: test -k masks")  # fmt: skip
    train = commands.add_parser(
        "train", help="train a network; more words are papermill's, such as -p seed 1",
        usage="%(prog)s [-h] FOLDER [-p PARAMETER VALUE ...]",
        epilog="The parameters are those of book/experiments/train.ipynb; its first page lists what they accept.",
    )  # fmt: skip
    train.add_argument("folder", type=Path, metavar="FOLDER", help="where the run goes")
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words[:1] == ["train"] and len(words) > 1 and words[1].startswith("-") and not {"-h", "--help"} & set(words):
        train.error(f"FOLDER comes first, as in `train runs/first -p seed 1`; received {words[1]!r} there")
    asked, more = parser.parse_known_args(words)
    if asked.command == "book" and more:
        parser.error(f"book takes no options; received {' '.join(more)}")
    try:
        __import__(NEEDS[asked.command])
    except ImportError:
        parser.error(f"{asked.command} needs {NEEDS[asked.command]}:{__doc__.partition('own:')[2].rstrip()}")
    if Path(sys.prefix).resolve() == (ROOT / ".venv").resolve():  # this folder's own environment
        settings = Path(sys.prefix, "etc", "ipython")
        settings.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "book" / "ipython_kernel_config.py", settings)
    # A kernel of this environment, also where JUPYTER_PATH or the home folder has another's.
    kernels = [str(Path(sys.prefix, "share", "jupyter")), *filter(None, [os.environ.get("JUPYTER_PATH")])]
    # Notebooks and pages are UTF-8, whatever the machine's locale.
    environment = {**os.environ, "JUPYTER_PATH": os.pathsep.join(kernels), "PYTHONUTF8": "1"}
    test = [["-m", "pytest", *more]]
    commands = test if asked.command == "test" else {"book": book, "train": train_in}[asked.command](asked, more)
    for words in commands:
        # Paths among the parameters of a run are the user's, seen from where the command was given.
        here = None if asked.command == "train" else ROOT
        done = subprocess.run([sys.executable, *words], cwd=here, env=environment)
        if done.returncode:
            break
    if asked.command == "book" and done.returncode == 0:
        print("The book is built. Open this in a browser:", (ROOT / "_build/html/index.html").as_uri(), sep="\n")
    return done.returncode


def book(asked, more):
    shutil.rmtree(ROOT / "_build" / "html", ignore_errors=True)
    # The cache compares only the code of the notebooks, not the library and the records that they read.
    kept, stamp = ROOT / "_build" / ".jupyter_cache", ROOT / "_build" / "cache.stamp"  # as make has them
    folders = (ROOT / "ranet_lib", *(ROOT / "book" / name for name in ("results", "one_page", "live")))
    for folder in folders:  # now: folders count, which change when a file is removed or compiled
        compileall.compile_dir(folder, quiet=2)
    files = [path for folder in folders for path in (folder, *folder.rglob("*")) if "__pycache__" not in path.parts]
    # Of the experiments, what chapters read; runs lie there too.
    files += [path for kind in ("grid.*", "contrasts.*") for path in (ROOT / "book" / "experiments").glob(kind)]
    changed = max(path.stat().st_mtime for path in files if path.exists())
    if not stamp.exists() or changed > stamp.stat().st_mtime:
        shutil.rmtree(kept, ignore_errors=True)
        stamp.parent.mkdir(exist_ok=True)
        stamp.touch()
    return [["book/execute.py"], [*JUPYTER_BOOK, "build", ".", "--all", "-W", "-n", "--keep-going"]]


def train_in(asked, more):
    folder = asked.folder.expanduser().resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"train needs a folder that can be made; received {str(asked.folder)!r} ({error.strerror})")
    if (folder / "record.json").exists():  # its executed notebook would be replaced before the new one stops
        sys.exit(f"train needs a folder without a finished run; {str(asked.folder)!r} holds a record.json")
    paths = ROOT / "book" / "experiments" / "train.ipynb", folder / "train.ipynb"
    # papermill takes what stands in braces for the name of a parameter.
    notebooks = (str(path).replace("{", "{{").replace("}", "}}") for path in paths)
    return [["-m", "papermill", *notebooks, "-p", "output_dir", str(folder), *more]]


if __name__ == "__main__":
    sys.exit(main())
