"""The prose of the whole project: British spelling by a real dictionary, no word twice in a row."""

import os
import re
import subprocess
from collections import defaultdict

import pytest
from programs import find_programs
from prose import files, of_file
from runs import ROOT

#: Words that the dictionary lacks, one a line: names, terms of the field, abbreviations. Capitals do not count.
LIST = ROOT / "tests" / "words.txt"
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
# What is written like a name in code is not a word: `x_train`, `os.path`, `softMax`, `conv2d`, `a/b`.
CODE = re.compile(r"[\d_/@·]|\w\.\w|[a-z][A-Z]")
# British in this project: `normalise`, `initialisation`; the dictionary takes both.
# What stands in emphasis is named, not used: "what others call a *residual block*".
EMPHASIS = re.compile(r"(?<![\w*])\*(?=[^\s*])[^*]+?\*(?![\w*])")
#: Other words for what the glossary has a word for.
OTHER_WORDS = {
    "attention module": "attention (?:blocks?|units?|layers?)",
    "batch normalisation": "batch[- ]?norm|batch-normali[sz]ation",
    "data set": "(?<!models, )datasets?(?!:)|data-sets?",
    "feature map": "feature-maps?|activation maps?",
    "label noise": "labels noise|label corruption|corrupted? label noise",
    "multiply-add": "multiply-accumulat(?:e|es|ions?)",
    "residual unit": "residual (?:blocks?|layers?)",
    "shortcut": "(?:shortcut|residual) connections?",
    "soft mask": "attention (?:maps?|masks?)|saliency maps?|heat ?maps?",
    "trunk branch": "main branch|backbone",
    "up-sampling": "upsampl\\w+|down-?sampl\\w+",
}
WITH_Z = re.compile(r"(?P<start>\w+[iy])z(?P<end>e|ed|es|er|ers|ing|ation|ations)")


@pytest.fixture(scope="module")
def texts():
    """The prose of each file."""
    return {path.relative_to(ROOT).as_posix(): of_file(path) for path in files(
        "*.md", "*.ipynb", "*.py", "*.yml", "*.yaml", "*.toml", "Makefile", "Snakefile"
    )}  # fmt: skip


@pytest.fixture(scope="module")
def words(texts):
    """Each word that is written somewhere, and where."""
    found = defaultdict(set)
    for name, text in texts.items():
        for piece in re.findall(r"[\w.'’/@·]+", text):
            if not CODE.search(piece.strip(".'’/")):
                for word in WORD.findall(piece):
                    found[re.sub(r"['’]s?$", "", word)].add(name)
    return found


def unknown(words):
    """Those of some words that a British dictionary does not have."""
    (hunspell,) = find_programs(["hunspell"], ["hunspell", "hunspell-en-gb"])
    command = [hunspell, "-l", "-d", "en_GB", "-i", "utf-8"]
    done = subprocess.run(command, input="\n".join(words), capture_output=True, encoding="utf-8")
    if "Can't open" in done.stderr:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up("hunspell has no dictionary en_GB (Debian: apt install hunspell-en-gb)")
    return set(done.stdout.split())


@pytest.fixture(scope="module")
def questionable(words):
    """The words that are no British words for the dictionary."""
    with_s = {word: WITH_Z.sub(r"\g<start>s\g<end>", word) for word in words if WITH_Z.fullmatch(word)}
    american = set(with_s) - {word for word, british in with_s.items() if british in unknown(with_s.values())}
    return unknown(words) | american - {"size", "sizes", "Size", "Sizes", "prize"}


@pytest.fixture(scope="module")
def listed():
    return LIST.read_text(encoding="utf-8").split()


def test_every_word_is_in_the_dictionary_or_on_the_list(words, questionable, listed):
    known = set(map(str.casefold, listed))
    wrong = {word: sorted(words[word]) for word in questionable if word.casefold() not in known}
    assert not wrong, f"mend these words, or add them to {LIST.name}: {wrong}"


def test_list_is_sorted_and_every_word_on_it_is_needed(questionable, listed):
    by_word = {word.casefold(): word for word in listed}
    assert listed == [by_word[word] for word in sorted(by_word)]
    assert set(by_word) - set(map(str.casefold, questionable)) == set(), "remove what nothing needs any more"


def test_one_word_for_one_thing(texts):
    found = {
        (name, word): other
        for name, text in texts.items()
        for word, others in OTHER_WORDS.items()
        if (other := re.findall(rf"(?<![\w-])(?:{others})(?![\w-])", EMPHASIS.sub("·", text), re.I))
    }
    assert found == {}, "use the word of the glossary, which stands before each"


def test_no_word_stands_twice_in_a_row(texts):
    twice = {
        name: found for name, text in texts.items()
        if (found := re.findall(r"(?<![\w-])([a-z]+)\s+\1(?![\w-])", re.sub(r"\n\n+", " · ", text), re.I))
    }  # fmt: skip
    assert twice == {}


def test_sentences_are_joined_by_more_than_and(texts):
    """", and" hides cause and contrast: at most 9 in 1,000 words of a page, and no "shall" at all."""
    pages = {name: text for name, text in texts.items()
             if name in ("README.md", "CONTRIBUTING.md") or re.fullmatch(r"book/.+\.(md|ipynb)", name)}  # fmt: skip
    assert len(pages) > 30
    rates = {name: 1000 * len(re.findall(r", and\b", text)) / len(text.split()) for name, text in pages.items()}
    assert {name: round(rate, 1) for name, rate in rates.items() if rate > 9} == {}
    assert [name for name, text in pages.items() if re.search(r"\bshall\b", text, re.I)] == []


def test_a_per_cent_sign_follows_its_number():
    """`30%`, as English has it, also in what cells and the library say."""
    apart = re.compile(r"[0-9}] %(?= [a-z(]|[.,;:!?)\"'*\\]|$)", re.M)
    sources = files("*.md", "*.ipynb", "ranet_lib/**/*.py")
    assert [(path.name, found[0]) for path in sources for found in apart.finditer(path.read_text("utf-8"))] == []
