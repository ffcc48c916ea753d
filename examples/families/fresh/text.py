#!/usr/bin/env python3
"""Trains a family of small RoBERTa text encoders for a single look by a finished method.

    python3 examples/families/fresh/text.py --root ROOT --out FOLDER

Base, experts and texts are made by examples/families/text/train.py, from tasks of other kinds:
none of those below is one there. ROOT is a folder into which the packages of texts that README.md
lists are unpacked. FOLDER gets train.py's layout and is not part of the repository.

The seed, 64, draws everything. The script prints what base and experts get on validation; it merges
nothing and scores nothing on the test split. It needs the Python packages of train.py.
"""

from __future__ import annotations

import functools
import re
import sys
import unicodedata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "text"))
import train  # noqa: E402
from train import Example, Task  # noqa: E402

TONGUES = tuple("ca cs de en es fi fr it nl pl pt sv".split())
VERBS = {
    "body": 29,
    "change": 30,
    "cognition": 31,
    "communication": 32,
    "contact": 35,
    "creation": 36,
    "emotion": 37,
    "motion": 38,
    "perception": 39,
    "possession": 40,
    "social": 41,
    "stative": 42,
}
FORTUNES = tuple(
    "art computers definitions men-women people politics science songs-poems work zippy".split()
)
CATEGORIES = tuple("Ll Lo Lu Mc Mn No Po Sm So".split())


def read_tongue(_: Path) -> list[Example]:
    """Frequent words; the class is the language.

    A word is at least ten times as frequent in it as in any other of the list. Words with the same
    first four letters are one group.
    """
    from wordfreq import get_frequency_dict, top_n_list

    frequencies = [get_frequency_dict(language) for language in TONGUES]
    found = []
    for label, language in enumerate(TONGUES):
        for word in top_n_list(language, 20_000):
            *others, most = sorted(frequency.get(word, 0) for frequency in frequencies)
            own = frequencies[label][word]
            if len(word) > 3 and word.isalpha() and own == most >= 10 * max(others):
                found.append(Example(word, label, word[:4]))
    return found


def read_verb(root: Path) -> list[Example]:
    """WordNet's definitions of verbs; the class is the lexicographer file of the synset."""
    classes = {number: label for label, number in enumerate(VERBS.values())}
    found = []
    for line in (root / "usr/share/wordnet/data.verb").read_text().splitlines():
        number = line[9:11]
        if number.isdigit() and int(number) in classes:
            text = train.squeeze(line.split(" | ", 1)[1].split(";")[0])
            found.append(Example(text, classes[int(number)], line[:8]))
    return found


def read_fortune(root: Path) -> list[Example]:
    """Sayings of the program fortune; the class is the file. A saying is its own group."""
    found = []
    for label, name in enumerate(FORTUNES):
        text = (root / "usr/share/games/fortunes" / name).read_text()
        for saying in map(train.squeeze, re.split(r"(?m)^%$", text)):
            if saying:
                found.append(Example(saying, label, f"{name} {len(found)}"))
    return found


def read_character(_: Path) -> list[Example]:
    """Names of Unicode characters; the class is the general category. A name is its own group."""
    found = []
    for code in range(sys.maxunicode + 1):
        name, category = unicodedata.name(chr(code), ""), unicodedata.category(chr(code))
        # Names with digits are those of ideographs and the like, which are only numbered.
        if category in CATEGORIES and name and not re.search(r"\d", name):
            found.append(Example(name, CATEGORIES.index(category), name))
    return found


def read_german(_: Path) -> list[Example]:
    """German words and their frequency."""
    return train.words_by_frequency("de", "a-zäöüß")


TASKS: dict[str, Task] = {
    "character": Task(read_character, CATEGORIES, "accuracy", 700),
    "fortune": Task(read_fortune, FORTUNES, "accuracy", 800),
    "german": Task(read_german, (), "pearson", 20000),
    "tongue": Task(read_tongue, TONGUES, "accuracy", 700),
    "verb": Task(read_verb, tuple(VERBS), "accuracy", 800),
}


def main() -> None:
    """Makes the family."""
    parser = train.make_full_parser(__doc__.splitlines()[0])
    parser.set_defaults(seed=64, base_steps=1200, expert_steps=600, expert_rate=2e-4)
    # train.py looks tasks up by name.
    train.TASKS.update(TASKS)
    figures = functools.partial(train.report_trained, split="validation")
    train.make_family(parser.parse_args(), tuple(TASKS), figures)


if __name__ == "__main__":
    main()
