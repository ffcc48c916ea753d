"""A decoder language model: tune a tiny Llama to three languages, record on prompts, merge, compare.

The languages are made here: in each, what follows a word depends on the word. Perplexity of each
task before and after the merge; 1 is certainty. It takes a minute or two.
"""

import copy
import os

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import catmerge  # noqa: E402
import torch  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

WORDS, LENGTH, TASKS = 64, 32, ("north", "south", "west")


def language(seed, sharpness=3.0):
    """The probabilities of the next word, by the word before."""
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(sharpness * torch.randn(WORDS, WORDS, generator=generator), 1)


COMMON = language(100)
# Each task's words are common for one half, and its own for the other.
LANGUAGES = {}
for _seed, _task in enumerate(TASKS):
    _half = torch.arange(WORDS) % 3 == _seed
    LANGUAGES[_task] = torch.where(_half[:, None], language(_seed), COMMON)


def texts(chain, count, seed):
    generator = torch.Generator().manual_seed(seed)
    words = [torch.randint(WORDS, (count,), generator=generator)]
    for _ in range(LENGTH - 1):
        words.append(torch.multinomial(chain[words[-1]], 1, generator=generator)[:, 0])
    return torch.stack(words, 1)


def train(model, chain, steps, seed, rate):
    torch.manual_seed(seed)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    for step in range(steps):
        batch = texts(chain, 32, 1000 * seed + step)
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    return model


@torch.no_grad()
def perplexity(model, task):
    batch = texts(LANGUAGES[task], 128, 7)
    return model(input_ids=batch, labels=batch).loss.exp().item()


def main(steps=200):
    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=WORDS, max_position_embeddings=LENGTH,
        tie_word_embeddings=False, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    base = train(LlamaForCausalLM(config), COMMON, steps, seed=1, rate=3e-3)
    experts, prompts = {}, {}
    for seed, task in enumerate(TASKS, 2):
        experts[task] = train(copy.deepcopy(base), LANGUAGES[task], steps, seed, rate=1e-3)
        with catmerge.record(experts[task]) as prompts[task], torch.no_grad():
            experts[task](input_ids=texts(LANGUAGES[task], 4, 5))

    def show(name, values):
        mean = sum(values.values()) / len(values)
        print(f"{name:26}" + "".join(f"{values[t]:8.2f}" for t in TASKS) + f"{mean:8.2f}")

    print(f"{'perplexity':26}" + "".join(f"{task:>8}" for task in TASKS) + f"{'mean':>8}")
    show("base", {t: perplexity(base, t) for t in TASKS})
    show("each expert on its task", {t: perplexity(experts[t], t) for t in TASKS})
    for method, settings in (
        ("average", {}),
        ("task-arithmetic", {"alpha": 0.4}),
        ("cat", {"alpha": 0.4}),
        ("lot", {}),
    ):
        merged, report = catmerge.merge(
            base.state_dict(),
            {task: expert.state_dict() for task, expert in experts.items()},
            method,
            statistics=prompts,
            model_type="llama",
            **settings,
        )
        model = copy.deepcopy(base)
        model.load_state_dict(merged)
        show(method, {t: perplexity(model, t) for t in TASKS})


if __name__ == "__main__":
    main()
