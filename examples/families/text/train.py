#!/usr/bin/env python3
"""Trains the family of small RoBERTa text encoders that the examples merge.

One run makes everything: a tokenizer, a base model pretrained by masked language modelling, one
expert per task with its own classifier head, and the texts of the tasks as token ids. Models,
parameter names and config.json are those of Hugging Face's `RobertaForMaskedLM` (the base) and
`RobertaForSequenceClassification` (the experts), which open the result as it is.

    python3 examples/families/text/train.py --root ROOT --out examples/families/text/family

ROOT is a folder into which the Debian packages that README.md lists are unpacked. What is written
below --out:

    base/config.json, base/model.safetensors   the pretrained model with its lm_head, F16
    base/tokenizer.json and its config         byte-level BPE, lower case
    experts/TASK.safetensors                   fine-tuned on TASK: roberta.*, classifier.*, F16
    samples/TASK.safetensors                   calibration texts, a random draw in random order
    validation/TASK.safetensors                for the choice of settings, and for nothing else
    test/TASK.safetensors                      for the figures that are reported

A file of texts has `input_ids` (n, tokens) in U16 (U8 if the vocabulary fits), `attention_mask`
(n, tokens) in U8 and `labels` (n): I64 class numbers, or F32 ratings for the regression task. Rows
are <s> text </s>, padded on the right with <pad> = 1. Its metadata: `task`, `metric`, `classes`
(names, separated by commas; empty for regression) and `pad_token_id`.

Needs Debian 12 and Python with torch, transformers, tokenizers, safetensors, numpy and wordfreq
(minilm.py's task valence also needs vaderSentiment); it was run with Python 3.11, torch 2.15.0,
transformers 5.23.0, tokenizers 0.23.3, safetensors 0.8.0, numpy 2.4.6, wordfreq 3.1.1 and
vaderSentiment 3.3.2. Everything is drawn from --seed. Another processor, version or number of
threads rounds differently, so its family differs in detail.
"""

from __future__ import annotations

import argparse
import collections
import copy
import dataclasses
import gzip
import html
import importlib.util
import json
import math
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from torch import Tensor, nn
from transformers import RobertaConfig, RobertaForMaskedLM, RobertaForSequenceClassification

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
START, PAD, END, UNKNOWN, MASK = range(5)
PREFIX = "roberta."

# -------------------------------------------------------------------------------- reading sources


@dataclasses.dataclass(frozen=True)
class Example:
    """A text with its class number or rating; examples of one group stay in one split."""

    text: str
    label: float
    group: str


def squeeze(text: str) -> str:
    """Any white space becomes one space."""
    return " ".join(text.split())


def plain_roff(line: str) -> str:
    """A line of a manual page without its font changes and escapes."""
    line = re.sub(r"\\f(\[\w*\]|\(..|.)|\\s[+-]?\d|\\\*(\[\w*\]|\(..|.)", "", line)
    line = re.sub(r"\\\((..)|\\\[\w+\]", " ", line)
    return squeeze(line.replace(r"\-", "-").replace(r"\(aq", "'").replace(r"\ ", " "))


def manual_lines(path: Path) -> Iterator[str]:
    """The lines of body text of a manual page: no requests, tables or lines with escapes left."""
    try:
        text = gzip.decompress(path.read_bytes()).decode()
    except UnicodeDecodeError:
        return
    for line in text.splitlines():
        if line and line[0] not in ".'":
            line = re.sub(r"\\[&|,/%:^]", "", plain_roff(line))
            if "\\" not in line and "\t" not in line:
                yield line


def wordy(text: str, least: int) -> bool:
    """Whether a text has so many words and is letters for the most part."""
    letters = sum(c.isalpha() or c == " " for c in text)
    return len(text.split()) >= least and letters >= 0.85 * len(text) and text[0].isalpha()


def read_dictionary(root: Path, name: str) -> str:
    """The text of a dictionary in the format of dictd."""
    return gzip.decompress((root / f"usr/share/dictd/{name}.dict.dz").read_bytes()).decode(
        errors="ignore"
    )


def html_paragraphs(path: Path) -> Iterator[str]:
    """The paragraphs of an HTML file, without tags."""
    text = path.read_text(errors="ignore") if path.is_file() else ""
    for match in re.finditer(r"<(p\b[^>]*|div class=\"para\")>(.*?)</(p|div)>", text, re.S):
        yield squeeze(html.unescape(re.sub(r"<[^>]*>", " ", match[2])))


# ---------------------------------------------------------------------------------- the tasks


LANGUAGES = tuple("cs da de es fi fr hu it nb nl pl pt_BR sv tr".split())
ENGLISH = frozenset("the this that with which from you".split())
TOPICS = {
    "act": 4,
    "animal": 5,
    "artifact": 6,
    "body": 8,
    "communication": 10,
    "food": 13,
    "location": 15,
    "person": 18,
    "plant": 20,
    "process": 22,
    "state": 26,
    "substance": 27,
}
SECTIONS = tuple("editors fonts games graphics mail math net science sound web".split())
NEW_TESTAMENT = (
    "Mat Mark Luke John Acts Rom 1Cor 2Cor Gal Eph Phili Col 1Thes 2Thes 1Tim 2Tim Titus Phile "
    "Heb James 1Pet 2Pet 1John 2John 3John Jude Rev"
).split()


def read_language(root: Path) -> list[Example]:
    """Lines of translated manual pages, about twelve a page, spread evenly over it.

    One group per page, whatever its language. Lines that were left in English are dropped.
    """
    found = []
    for label, language in enumerate(LANGUAGES):
        for path in sorted((root / "usr/share/man" / language).glob("man?/*.gz")):
            lines = [
                line
                for line in manual_lines(path)
                if wordy(line, 6) and not ENGLISH.intersection(line.lower().split())
            ]
            for line in lines[:: 1 + len(lines) // 12]:
                found.append(Example(line, label, path.name.split(".")[0]))
    return found


def read_topic(root: Path) -> list[Example]:
    """WordNet's definitions of nouns; the class is the lexicographer file of the synset."""
    classes = {number: label for label, number in enumerate(TOPICS.values())}
    found = []
    for line in (root / "usr/share/wordnet/data.noun").read_text().splitlines():
        number = line[9:11]
        if number.isdigit() and int(number) in classes:
            text = squeeze(line.split(" | ", 1)[1].split(";")[0])
            found.append(Example(text, classes[int(number)], line[:8]))
    return found


def read_section(root: Path) -> list[Example]:
    """Short descriptions of Debian packages, one per source package; the class is the section.

    They come from apt's lists of the machine, not from root.
    """
    lists = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True, check=True)
    found = {}
    for entry in lists.stdout.split("\n\n"):
        field = dict(re.findall(r"^(Package|Source|Section|Description): (.*)$", entry, re.M))
        if field.get("Section") in SECTIONS and field.get("Description"):
            source = field.get("Source", field["Package"]).split()[0]
            label = SECTIONS.index(field["Section"])
            found.setdefault(source, Example(field["Description"], label, source))
    return list(found.values())


def read_testament(root: Path) -> list[Example]:
    """Verses of the King James Bible, 1 if of the New Testament; one group per chapter."""
    folder = root / "usr"
    printed = subprocess.run(
        [folder / "bin/bible", "-p", folder / "lib", "-f", "gen1:1-rev22:21"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = []
    for line in printed.stdout.splitlines():
        match = re.match(r"(\w+?)(\d+):\d+ (.*)", line)
        if match:
            found.append(Example(match[3], match[1] in NEW_TESTAMENT, match[1] + match[2]))
    return found


def read_valence(root: Path) -> list[Example]:
    """A word with WordNet's gloss of its most frequent sense; the label is the word's valence.

    Valences are VADER's: means of ten people's ratings from -4 to 4, averaged over the words of a
    synset. Words with the same first four letters are one group.
    """
    module = importlib.util.find_spec("vaderSentiment")
    if module is None or not module.submodule_search_locations:
        raise SystemExit("the task valence needs the Python package vaderSentiment")
    lexicon = Path(module.submodule_search_locations[0]) / "vader_lexicon.txt"
    glosses: dict[tuple[str, str], str] = {}
    senses: dict[str, tuple[int, str, str]] = {}
    for part in ("noun", "verb", "adj", "adv"):
        folder = root / "usr/share/wordnet"
        for line in (folder / f"data.{part}").read_text().splitlines():
            if not line.startswith(" "):
                glosses[part, line[:8]] = squeeze(line.split(" | ", 1)[1])
        for line in (folder / f"index.{part}").read_text().splitlines():
            if not line.startswith(" "):
                fields = line.split()
                pointers = int(fields[3])
                sense = (int(fields[5 + pointers]), part, fields[6 + pointers])
                senses[fields[0]] = max(senses.get(fields[0], sense), sense)
    words = collections.defaultdict(list)
    for line in lexicon.read_text().splitlines():
        word, rating = line.split("\t")[:2]
        if re.fullmatch("[a-z]{3,}", word) and word in senses:
            words[senses[word][1:]].append((word, float(rating)))
    return [
        Example(
            f"{members[0][0]}: {glosses[synset]}",
            sum(rating for _, rating in members) / len(members),
            members[0][0][:4],
        )
        for synset, members in words.items()
    ]


def words_by_frequency(language: str, letters: str) -> list[Example]:
    """Words of three letters or more; the label is the Zipf frequency in wordfreq, less 4.

    Zipf frequency is log10 of the occurrences in a billion words. At most 2,500 words of a half
    unit are taken, evenly over their ranks. Words with the same first four letters are one group.
    """
    from wordfreq import top_n_list, zipf_frequency

    bins = collections.defaultdict(list)
    for word in top_n_list(language, 200_000):
        if re.fullmatch(f"[{letters}]{{3,}}", word):
            value = zipf_frequency(word, language)
            bins[min(12, int(2 * value))].append(Example(word, value - 4, word[:4]))
    return [
        words[i * len(words) // min(2500, len(words))]
        for words in bins.values()
        for i in range(min(2500, len(words)))
    ]


def read_frequency(_: Path) -> list[Example]:
    """English words and their frequency."""
    return words_by_frequency("en", "a-z")


@dataclasses.dataclass(frozen=True)
class Task:
    """Where a task's examples come from, its classes (none: a regression) and its metric."""

    read: Callable[[Path], list[Example]]
    classes: tuple[str, ...]
    metric: str
    per_class: int

    @property
    def outputs(self) -> int:
        """The number of the head's outputs."""
        return max(1, len(self.classes))


TASKS: dict[str, Task] = {
    "language": Task(read_language, LANGUAGES, "accuracy", 700),
    "topic": Task(read_topic, tuple(TOPICS), "accuracy", 800),
    "section": Task(read_section, SECTIONS, "accuracy", 600),
    "testament": Task(read_testament, ("old", "new"), "matthews", 3000),
    "valence": Task(read_valence, (), "pearson", 8000),
    "frequency": Task(read_frequency, (), "pearson", 20000),
}
# A model of this size doesn't learn valence; minilm.py does all tasks.
FAMILY = tuple(name for name in TASKS if name != "valence")


def thin(examples: Sequence[Example]) -> list[Example]:
    """Drops near-duplicates: texts that share over half of their word triples with an earlier one.

    Half of the shorter text's triples counts. Texts of fewer than three words must differ.
    """
    kept: list[Example] = []
    sizes: list[int] = []
    users: dict[tuple[str, ...], list[int]] = collections.defaultdict(list)
    for example in examples:
        words = re.findall(r"\w+", example.text.lower())
        triples = {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))}
        shared = collections.Counter(other for triple in triples for other in users[triple])
        if any(count > 0.5 * min(len(triples), sizes[i]) for i, count in shared.items()):
            continue
        for triple in triples:
            users[triple].append(len(kept))
        kept.append(example)
        sizes.append(len(triples))
    return kept


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Texts per task for the splits that are written; training has the rest."""

    samples: int = 64
    validation: int = 200
    test: int = 500


def split_task(
    task: Task, root: Path, sizes: Sizes, rng: np.random.Generator
) -> dict[str, list[Example]]:
    """A task's splits, each in random order; no group is in two of test, validation and the rest.

    At most `per_class` examples of a class are drawn. Samples are of the groups of training.
    """
    pool = task.read(root)
    limit: collections.Counter[float] = collections.Counter()
    drawn = []
    for i in rng.permutation(len(pool)):
        key = pool[i].label if task.classes else 0.0
        if limit[key] < 2 * task.per_class:
            limit[key] += 1
            drawn.append(pool[i])
    limit.clear()
    examples = []
    for example in thin(drawn):
        key = example.label if task.classes else 0.0
        if limit[key] < task.per_class:
            limit[key] += 1
            examples.append(example)
    groups = collections.defaultdict(list)
    for example in examples:
        groups[example.group].append(example)
    names = sorted(groups)
    order = iter(rng.permutation(len(names)))
    splits = {}
    for name, count in (("test", sizes.test), ("validation", sizes.validation)):
        members: list[Example] = []
        while len(members) < count:
            members += groups[names[next(order)]]
        splits[name] = [members[i] for i in rng.permutation(len(members))[:count]]
    rest = [example for i in order for example in groups[names[i]]]
    rest = [rest[i] for i in rng.permutation(len(rest))]
    return splits | {"samples": rest[: sizes.samples], "train": rest[sizes.samples :]}


def make_splits(name: str, root: Path, seed: int) -> dict[str, list[Example]]:
    """All splits of a task; each task has a random stream of its own."""
    rng = np.random.default_rng((seed, 1, list(TASKS).index(name)))
    return split_task(TASKS[name], root, Sizes(), rng)


# ------------------------------------------------------------------------- the text of pretraining


def corpus_sources(root: Path) -> Iterator[tuple[list[str], int]]:
    """Paragraphs per source, and how many characters of them to take at most.

    Nothing of it is in a task: no translated manual page, no WordNet, no package description.
    """
    doc = root / "usr/share/doc"
    for name, count in (("gcide", 14), ("foldoc", 5), ("jargon", 2), ("devil", 1)):
        text = re.sub(r"\[[^\]]*\]|[{}\\]", "", read_dictionary(root, name))
        paragraphs = [squeeze(part) for part in re.split(r"\n\s*\n|\n(?=\S)", text)]
        yield [part for part in paragraphs if wordy(part, 5)], count * 1_000_000
    pages = sorted((root / "usr/share/man").glob("man[1-8]/*.gz"))
    yield [" ".join(manual_lines(path)) for path in pages], 3_000_000
    for folder in ("debian-policy", "debian/FAQ", "debian-handbook/html/en-US"):
        paths = sorted((doc / folder).rglob("*.html"))
        yield [text for path in paths for text in html_paragraphs(path)], 1_000_000
    for language in LANGUAGES:
        short = language.split("_")[0]
        paths = sorted((doc / "debian-handbook/html").glob(f"{short}-*/*.html"))
        paths += sorted((doc / "installation-guide-amd64" / short).glob("*.html"))
        paths += sorted((root / "usr/share/debian-reference").glob(f"*.{short}.html"))
        yield [text for path in paths for text in html_paragraphs(path)], 900_000


def make_corpus(root: Path, rng: np.random.Generator) -> list[str]:
    """The paragraphs of pretraining, without repetitions, in random order."""
    taken = {}
    for paragraphs, most in corpus_sources(root):
        characters = 0
        for i in rng.permutation(len(paragraphs)):
            text = paragraphs[i]
            if len(text) >= 20 and text not in taken and characters < most:
                taken[text] = None
                characters += len(text)
    texts = list(taken)
    return [texts[i] for i in rng.permutation(len(texts))]


# ----------------------------------------------------------------------------------- the tokenizer


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> Tokenizer:
    """A byte-level BPE of lower-case text that frames every text by <s> and </s>."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=list(SPECIAL), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", START), ("</s>", END)],
    )
    return tokenizer


def write_tokenizer(tokenizer: Tokenizer, folder: Path, tokens: int) -> None:
    """Writes what `AutoTokenizer.from_pretrained` reads."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": tokens,
        "padding_side": "right",
    } | dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), SPECIAL))
    text = json.dumps(config, indent=2, sort_keys=True)
    (folder / "tokenizer_config.json").write_text(text + "\n")


@dataclasses.dataclass
class Encoded:
    """Texts as the models take them: ids and mask (n, tokens), int64, and labels (n,)."""

    ids: Tensor
    mask: Tensor
    labels: Tensor

    @classmethod
    def of(
        cls, examples: Sequence[Example], task: Task, tokenizer: Tokenizer, tokens: int, pad: int
    ) -> Encoded:
        """Tokenises, cuts to so many tokens and pads on the right."""
        tokenizer.enable_truncation(tokens)
        tokenizer.enable_padding(length=tokens, pad_id=pad)
        rows = tokenizer.encode_batch([example.text for example in examples])
        tokenizer.no_truncation()
        tokenizer.no_padding()
        labels = torch.tensor([example.label for example in examples], dtype=torch.float32)
        return cls(
            torch.tensor([row.ids for row in rows]),
            torch.tensor([row.attention_mask for row in rows]),
            labels.long() if task.classes else labels,
        )

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, rows: Tensor) -> dict[str, Tensor]:
        """The inputs of some rows, without columns that only pad."""
        tokens = int(self.mask[rows].sum(1).max())
        return {
            "input_ids": self.ids[rows, :tokens],
            "attention_mask": self.mask[rows, :tokens],
        }

    def save(self, path: Path, name: str, vocabulary: int, pad: int) -> None:
        """Writes ids in the smallest type that holds the vocabulary."""
        tensors = {
            "input_ids": self.ids.to(torch.uint8 if vocabulary <= 256 else torch.uint16),
            "attention_mask": self.mask.to(torch.uint8),
            "labels": self.labels,
        }
        task = TASKS[name]
        metadata = {
            "task": name,
            "metric": task.metric,
            "classes": ",".join(task.classes),
            "pad_token_id": str(pad),
        }
        save_file(tensors, path, metadata)


# ------------------------------------------------------------------------------------ the training


def fit(
    groups: list[dict],
    loss: Callable[[int], Tensor],
    steps: int,
    decay: float = 0.0,
) -> None:
    """AdamW with a linear warm-up of a tenth of the steps and a linear decay.

    groups are the optimizer's groups of parameters; loss takes the number of the step.
    """
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=decay, fused=True)
    parameters = [parameter for group in groups for parameter in group["params"]]
    warm = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, (steps - step) / max(1, steps - warm))
    )
    for step in range(steps):
        value = loss(step)
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()


def roberta_config(args: argparse.Namespace) -> RobertaConfig:
    """The shape of the family's models."""
    return RobertaConfig(
        vocab_size=args.vocabulary,
        hidden_size=args.width,
        intermediate_size=args.mlp_width,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        max_position_embeddings=args.tokens + PAD + 1,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        hidden_act="gelu",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        bos_token_id=START,
        pad_token_id=PAD,
        eos_token_id=END,
    )


def pack(texts: Sequence[str], tokenizer: Tokenizer, tokens: int) -> Tensor:
    """Rows (n, tokens) of <s> ... </s> with consecutive text between, </s> between paragraphs."""
    stream: list[int] = []
    for row in tokenizer.encode_batch(list(texts), add_special_tokens=False):
        stream += [*row.ids, END]
    inner = tokens - 2
    body = torch.tensor(stream[: len(stream) // inner * inner], dtype=torch.int16)
    rows = torch.full((len(body) // inner, tokens), END, dtype=torch.int16)
    rows[:, 0] = START
    rows[:, 1:-1] = body.view(-1, inner)
    return rows


def hide(ids: Tensor, vocabulary: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """BERT's masking: 15 % of the tokens are to be guessed.

    Of these 80 % become <mask>, 10 % another token and 10 % stay. Returns the changed ids and a
    boolean mask of the tokens to be guessed, both of ids' shape.
    """
    chosen = (torch.rand(ids.shape, generator=generator) < 0.15) & (ids >= len(SPECIAL))
    kind = torch.rand(ids.shape, generator=generator)
    others = torch.randint(len(SPECIAL), vocabulary, ids.shape, generator=generator)
    hidden = torch.where(chosen & (kind < 0.8), MASK, ids)
    return torch.where(chosen & (kind >= 0.9), others, hidden), chosen


def pretrain(config: RobertaConfig, rows: Tensor, args: argparse.Namespace) -> RobertaForMaskedLM:
    """Trains the base by masked language modelling on rows (n, tokens)."""
    torch.manual_seed(args.seed)
    model = RobertaForMaskedLM(config)
    generator = torch.Generator().manual_seed(args.seed)
    order = torch.randperm(len(rows), generator=generator)
    recent: collections.deque[float] = collections.deque(maxlen=100)
    started = time.monotonic()

    def loss(step: int) -> Tensor:
        places = torch.arange(step * args.base_batch, (step + 1) * args.base_batch) % len(rows)
        ids = rows[order[places]].long()
        hidden, chosen = hide(ids, config.vocab_size, generator)
        states = model.roberta(hidden).last_hidden_state
        value = F.cross_entropy(model.lm_head(states[chosen]), ids[chosen])
        recent.append(value.item())
        if step % 200 == 199:
            mean = sum(recent) / len(recent)
            print(f"step {step + 1}: {mean:.3f}, {time.monotonic() - started:.0f} s", flush=True)
        return value

    groups = [{"params": list(model.parameters()), "lr": args.base_rate}]
    fit(groups, loss, args.base_steps, 0.01)
    return round_to_half(model)


def round_to_half(model: nn.Module) -> nn.Module:
    """Rounds the parameters to what F16 holds: the model as it will be read back."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())
    return model


def train_expert(
    model: nn.Module,
    prefix: str,
    split: Encoded,
    seed: int,
    steps: int,
    batch: int,
    rate: float,
    head_rate: float,
) -> nn.Module:
    """Fine-tunes all parameters of a sequence classifier, encoder and head at rates of their own.

    The encoder's names begin with prefix. One output is a regression by least squares, several are
    classes by cross entropy.
    """
    generator = torch.Generator().manual_seed(seed)

    def loss(_: int) -> Tensor:
        rows = torch.randint(len(split), (batch,), generator=generator)
        logits = model(**split.batch(rows)).logits
        if split.labels.is_floating_point():
            return F.mse_loss(logits[:, 0], split.labels[rows])
        return F.cross_entropy(logits, split.labels[rows])

    encoder = [p for name, p in model.named_parameters() if name.startswith(prefix)]
    head = [p for name, p in model.named_parameters() if not name.startswith(prefix)]
    groups = [{"params": encoder, "lr": rate}, {"params": head, "lr": head_rate}]
    model.train()
    fit(groups, loss, steps)
    return round_to_half(model.eval())


# ------------------------------------------------------------------------------------- the figures


@torch.inference_mode()
def predict(model: nn.Module, split: Encoded) -> Tensor:
    """Logits (n, outputs)."""
    parts = torch.arange(len(split)).split(128)
    return torch.cat([model(**split.batch(rows)).logits for rows in parts])


def score(metric: str, logits: Tensor, labels: Tensor) -> float:
    """Accuracy, Matthews' correlation (two classes) or Pearson's correlation, times 100."""
    if metric == "accuracy":
        return 100 * (logits.argmax(-1) == labels).double().mean().item()
    guesses = logits.argmax(-1) if metric == "matthews" else logits[:, 0]
    pair = torch.stack([guesses.double(), labels.double()])
    if (pair == pair[:, :1]).all(1).any():
        return 0.0
    # On two classes Matthews' correlation is Pearson's of the 0s and 1s.
    return 100 * torch.corrcoef(pair)[0, 1].item()


def encoder_of(model: nn.Module, prefix: str) -> dict[str, Tensor]:
    """The parameters that base and experts share."""
    state = model.state_dict()
    return {name: value for name, value in state.items() if name.startswith(prefix)}


def distance(expert: dict[str, Tensor], base: dict[str, Tensor]) -> float:
    """The norm of the task vector as a share of the base's, in percent."""
    pairs = [(expert[name].double(), value.double()) for name, value in base.items()]
    moved = sum((p - q).square().sum().item() for p, q in pairs)
    return 100 * math.sqrt(moved / sum(q.square().sum().item() for _, q in pairs))


def arithmetic(
    base: dict[str, Tensor], experts: list[dict[str, Tensor]], alpha: float
) -> dict[str, Tensor]:
    """Task Arithmetic: base + alpha times the sum of the experts' differences to it."""
    return {
        name: value + alpha * sum(expert[name] - value for expert in experts)
        for name, value in base.items()
    }


def evaluate(
    encoder: dict[str, Tensor],
    classifiers: dict[str, nn.Module],
    splits: dict[str, dict[str, Encoded]],
    split: str,
) -> dict[str, float]:
    """Per task the metric of an encoder with the task's own classifier head, and their mean."""
    figures = {}
    for name, classifier in classifiers.items():
        model = copy.deepcopy(classifier)
        model.load_state_dict(encoder, strict=False)
        data = splits[name][split]
        figures[name] = score(TASKS[name].metric, predict(model, data), data.labels)
    return figures | {"mean": sum(figures.values()) / len(figures)}


def print_line(label: str, figures: dict[str, float]) -> None:
    """Prints a line of the table that `report_trained` and `report` make."""
    print(f"{label:<26}" + "".join(f"{value:>11.1f}" for value in figures.values()), flush=True)


def report_trained(
    base: dict[str, Tensor],
    classifiers: dict[str, nn.Module],
    splits: dict[str, dict[str, Encoded]],
    prefix: str,
    split: str,
) -> None:
    """Prints the figures of base and experts on a split, the base's with the experts' heads."""
    own = {}
    for name, classifier in classifiers.items():
        own |= evaluate(encoder_of(classifier, prefix), {name: classifier}, splits, split)
        del own["mean"]
    print_line(f"base, {split}", evaluate(base, classifiers, splits, split))
    print_line(f"experts, {split}", own | {"mean": sum(own.values()) / len(own)})


def report(
    base: dict[str, Tensor],
    classifiers: dict[str, nn.Module],
    splits: dict[str, dict[str, Encoded]],
    prefix: str,
) -> None:
    """Prints the test figures of base, experts, average and Task Arithmetic.

    Alpha is chosen on validation.
    """
    experts = {name: encoder_of(model, prefix) for name, model in classifiers.items()}

    def merged(alpha: float, split: str) -> dict[str, float]:
        encoder = arithmetic(base, list(experts.values()), alpha)
        return evaluate(encoder, classifiers, splits, split)

    share = 1 / len(experts)
    for split in ("validation", "test"):
        report_trained(base, classifiers, splits, prefix, split)
        print_line(f"average, {split}", merged(share, split))
    grid = {step / 10: merged(step / 10, "validation") for step in range(1, 11)}
    for alpha, figures in grid.items():
        print_line(f"alpha {alpha:.1f}, validation", figures)
    best = max(grid, key=lambda alpha: grid[alpha]["mean"])
    print_line(f"alpha {best:.1f}, test", merged(best, "test"))


# -------------------------------------------------------------------------------------- the family


def save_model(model: nn.Module, path: Path) -> None:
    """Writes the parameters in F16, a tied one once, as `save_pretrained` would name them."""
    tensors = {
        name: parameter.detach().half().contiguous()
        for name, parameter in model.named_parameters()
        if name != "lm_head.decoder.bias"
    }
    save_file(tensors, path, {"format": "pt"})


def write_config(config: RobertaConfig, path: Path) -> None:
    """Writes config.json as `RobertaForMaskedLM.from_pretrained` reads it."""
    names = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads "
        "max_position_embeddings type_vocab_size layer_norm_eps hidden_act hidden_dropout_prob "
        "attention_probs_dropout_prob bos_token_id pad_token_id eos_token_id initializer_range"
    ).split()
    values = {name: getattr(config, name) for name in names} | {
        "architectures": ["RobertaForMaskedLM"],
        "dtype": "float16",
        "model_type": "roberta",
        "position_embedding_type": "absolute",
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
    }
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def make_base(args: argparse.Namespace) -> tuple[RobertaForMaskedLM, Tokenizer]:
    """Trains and writes the base and its tokenizer, or reads those of --base."""
    folder = args.out / "base"
    if args.base:
        model = RobertaForMaskedLM.from_pretrained(args.base, dtype=torch.float32)
        return model, Tokenizer.from_file(str(args.base / "tokenizer.json"))
    texts = make_corpus(args.root, np.random.default_rng((args.seed, 0)))
    tokenizer = train_tokenizer(texts, args.vocabulary)
    rows = pack(texts, tokenizer, args.tokens)
    characters = sum(map(len, texts))
    print(f"base: {characters} characters, {rows.numel()} tokens in {len(rows)} rows", flush=True)
    config = roberta_config(args)
    model = pretrain(config, rows, args)
    write_config(config, folder / "config.json")
    write_tokenizer(tokenizer, folder, args.tokens)
    save_model(model, folder / "model.safetensors")
    return model, tokenizer


def make_experts(
    shared: dict[str, Tensor],
    prefix: str,
    fresh: Callable[[int], nn.Module],
    tokenizer: Tokenizer,
    pad: int,
    names: Sequence[str],
    args: argparse.Namespace,
) -> tuple[dict[str, nn.Module], dict[str, dict[str, Encoded]]]:
    """Makes the tasks of these names, and trains and writes an expert of each.

    shared are the base's parameters, all of which begin with prefix; fresh makes a classifier
    with so many outputs, whose encoder is overwritten by them. Returns the experts and the tasks'
    splits by name, after printing the head of a table of figures.
    """
    for folder in ("experts", "samples", "validation", "test"):
        (args.out / folder).mkdir(parents=True, exist_ok=True)
    classifiers: dict[str, nn.Module] = {}
    data: dict[str, dict[str, Encoded]] = {}
    print(f"{'task':<12}{'outputs':>8}{'training':>10}{'moved %':>9}{'seconds':>9}")
    for name in names:
        task, file, started = TASKS[name], f"{name}.safetensors", time.monotonic()
        splits = make_splits(name, args.root, args.seed)
        seed = args.seed + list(TASKS).index(name)
        data[name] = {
            split: Encoded.of(examples, task, tokenizer, args.tokens, pad)
            for split, examples in splits.items()
        }
        for split in ("samples", "validation", "test"):
            path = args.out / split / file
            data[name][split].save(path, name, tokenizer.get_vocab_size(), pad)
        torch.manual_seed(seed)
        model = fresh(task.outputs)
        model.load_state_dict(shared, strict=False)
        classifiers[name] = train_expert(
            model,
            prefix,
            data[name]["train"],
            seed,
            args.expert_steps,
            args.expert_batch,
            args.expert_rate,
            args.head_rate,
        )
        save_model(model, args.out / "experts" / file)
        moved = distance(encoder_of(model, prefix), shared)
        print(
            f"{name:<12}{task.outputs:>8}{len(data[name]['train']):>10}{moved:>9.2f}"
            f"{time.monotonic() - started:>9.0f}",
            flush=True,
        )
    print(f"{'':<26}" + "".join(f"{name:>11}" for name in [*classifiers, "mean"]))
    return classifiers, data


def make_parser(description: str) -> argparse.ArgumentParser:
    """The options that this script and minilm.py share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--root", type=Path, default=Path("/"), help="folder of unpacked packages")
    parser.add_argument("--seed", type=int, default=2025)
    parser.add_argument("--tokens", type=int, default=48, help="longest text, with its frame")
    parser.add_argument("--expert-steps", type=int, default=1000)
    parser.add_argument("--expert-batch", type=int, default=32)
    parser.add_argument("--expert-rate", type=float, default=1e-4)
    parser.add_argument("--head-rate", type=float, default=2e-3, help="rate of classifier.*")
    parser.add_argument("--threads", type=int, default=1)
    return parser


def make_full_parser(description: str) -> argparse.ArgumentParser:
    """The options of a script that trains its base."""
    parser = make_parser(description)
    parser.add_argument("--base", type=Path, help="folder of a base to use instead of a new one")
    parser.add_argument("--vocabulary", type=int, default=1024, help="tokens of the tokenizer")
    parser.add_argument("--width", type=int, default=96, help="hidden size")
    parser.add_argument("--mlp-width", type=int, default=192, help="intermediate size")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4, help="attention heads")
    parser.add_argument("--base-steps", type=int, default=5000)
    parser.add_argument("--base-batch", type=int, default=128)
    parser.add_argument("--base-rate", type=float, default=2e-3)
    return parser


Report = Callable[
    [dict[str, Tensor], dict[str, nn.Module], dict[str, dict[str, Encoded]], str], None
]


def make_family(args: argparse.Namespace, names: Sequence[str], figures: Report) -> None:
    """Writes a family of the tasks of these names, and has its figures printed."""
    started = time.monotonic()
    torch.set_num_threads(args.threads)
    (args.out / "base").mkdir(parents=True, exist_ok=True)
    base, tokenizer = make_base(args)

    def fresh(outputs: int) -> RobertaForSequenceClassification:
        config = copy.deepcopy(base.config)
        config.num_labels = outputs
        return RobertaForSequenceClassification(config)

    shared = encoder_of(base, PREFIX)
    experts, data = make_experts(shared, PREFIX, fresh, tokenizer, PAD, names, args)
    figures(shared, experts, data, PREFIX)
    print(f"done in {time.monotonic() - started:.0f} s")


def main() -> None:
    """Makes the committed family."""
    make_family(make_full_parser(__doc__.splitlines()[0]).parse_args(), FAMILY, report)


if __name__ == "__main__":
    main()
