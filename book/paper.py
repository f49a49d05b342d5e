"""The book as a PDF and as an EPUB: what `make pdf` and `make epub` do.

    python book/paper.py pdf        # or epub
    python book/paper.py install    # only the programs that both need

Both are built from the executed notebooks that `make book` keeps in `_build/.jupyter_cache`; what is there does not run
again. What they look like is said in `book/_ext`, by `paper.py`, `paper.sty` and `paper.css`.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "_build"
NAME = "residual-attention"
#: Debian's packages, and for each a program or a file of TeX by which it is known.
NEEDS = {
    "epub": {"librsvg2-bin": "rsvg-convert"},
    "pdf": {
        "librsvg2-bin": "rsvg-convert", "latexmk": "latexmk", "texlive-xetex": "xelatex",
        "fonts-dejavu-core": "DejaVuSansMono.ttf", "fonts-dejavu-extra": "DejaVuSansMono-Oblique.ttf",
        "texlive-latex-extra": "tabulary.sty", "texlive-fonts-recommended": "pzdr.tfm",
        "fonts-texgyre": "texgyrepagella-regular.otf", "fonts-texgyre-math": "texgyrepagella-math.otf",
    },
}  # fmt: skip
#: What in LaTeX's log means that something is not on the page as it should be.
FAULTS = [
    r"^! .*",
    r"^LaTeX Warning: (?:Reference|Hyper reference|Citation|File) .*(?:undefined|not found).*",
    r"^Missing character: .*",
    # A line that is cut at the margin: wider than the text by more than a letter.
    r"^Overfull \\hbox \((?:[1-9]\d|\d{3,})\.\d+pt too wide\).*",
]


def lacking(kind):
    """The packages whose program or file is not here."""
    return [package for package, sign in NEEDS[kind].items() if not is_here(sign)]


def is_here(sign):
    if "." not in sign:
        return shutil.which(sign) is not None
    find = shutil.which("kpsewhich")
    return bool(find) and subprocess.run([find, sign], capture_output=True).returncode == 0


def install(kind):
    """See that the programs are here; where apt can install them, it does."""
    packages = lacking(kind)
    if packages and hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get"):
        print("Installing", *packages, flush=True)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        apt = ["apt-get", "-qq", "-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=600"]
        subprocess.run([*apt, "update"], env=environment, stdout=subprocess.DEVNULL)
        subprocess.run([*apt, "install", "-y", "--no-install-recommends", *packages], env=environment)
        packages = lacking(kind)
    if packages:
        signs = ", ".join(NEEDS[kind][package] for package in packages)
        sys.exit(f"`make {kind}` needs {signs}. On Debian or Ubuntu: apt install {' '.join(NEEDS[kind])}")


def sphinx(*builder):
    words = ["build", ".", "--all", "-W", "-n", "--keep-going", "--builder", *builder]
    # Beside the Python that runs this; not found by its resolved path, which is outside the environment.
    done = subprocess.run([Path(sys.executable).with_name("jupyter-book"), *words], cwd=ROOT)
    if done.returncode:
        sys.exit(done.returncode)


def typeset(folder):
    """Run LaTeX until the references are right, and stop at what it complains about."""
    environment = {**os.environ, "LATEXOPTS": "-interaction=nonstopmode -halt-on-error", "max_print_line": "1000"}
    words = ["latexmk", "-xelatex", "-silent", f"{NAME}.tex"]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, errors="replace")
    log = folder / f"{NAME}.log"
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else done.stdout + done.stderr
    found = faults(text, (folder / f"{NAME}.tex").read_text(encoding="utf-8"))
    if done.returncode or found:
        sys.exit("LaTeX complains:\n" + "\n".join(found or [text[-3000:]]) + f"\nSee {log}")


def faults(text, source=""):
    """What a log of LaTeX complains about, each once. Of long lines of code it does so before it breaks them."""
    code, inside = set(), False
    for number, line in enumerate(source.splitlines(), start=1):
        inside = (inside or r"\begin{sphinxVerbatim}" in line) and r"\end{sphinxVerbatim}" not in line
        if inside:
            code.add(f" at lines {number}--{number}")
    found = [match[0] for fault in FAULTS for match in re.finditer(fault, text, re.M)]
    return [line for line in dict.fromkeys(found) if not any(line.endswith(place) for place in code)]


def check_pages(folder):
    """Stop at a page that is not XML: a reader shows it up to there, or not at all."""
    found = []
    for page in sorted(folder.rglob("*.xhtml")):
        try:
            ElementTree.parse(page)
        except ElementTree.ParseError as error:
            found.append(f"{page.relative_to(folder)}: {error}")
    if found:
        sys.exit("Pages of the EPUB are not XML:\n" + "\n".join(found))


def main(kind):
    install(kind)
    target = BUILD / f"{NAME}.{kind}"
    folder = BUILD / ("latex" if kind == "pdf" else "epub")
    target.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    if kind == "pdf":
        sphinx("latex")
        typeset(folder)
    else:
        sphinx("custom", "--custom-builder", "epub")
        check_pages(folder)
    shutil.copyfile(folder / target.name, target)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["pdf" | "epub" as kind]:
            main(kind)
        case ["install"]:
            install("pdf")  # which needs all that the other needs
        case received:
            sys.exit(f"usage: python book/paper.py pdf | epub | install; received {' '.join(received) or 'nothing'}")
