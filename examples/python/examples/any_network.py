"""Any network of PyTorch: train a small residual network, tune it to tasks, record, merge, compare.

The network, its data and its training are in this file: nothing is downloaded. It takes a minute.
"""

import copy

import catmerge
import torch
from torch import nn
from torch.nn import functional as F

CLASSES, TASKS = 4, ("stripes", "blobs", "rings")


class Block(nn.Module):
    def __init__(self, channels, width, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(4, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(4, width)
        self.shortcut = nn.Conv2d(channels, width, 1, stride, bias=False)

    def forward(self, x):
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class Network(nn.Module):
    """Images of three channels to a row of features."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Block(3, 16), Block(16, 32, 2), Block(32, 64, 2))
        self.neck = nn.Linear(64, 64)

    def forward(self, x):
        return F.relu(self.neck(self.blocks(x).mean((2, 3))))


def images(task, count, seed):
    """Images of a task, 16 x 16, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(CLASSES, (count,), generator=generator)
    grid = torch.linspace(-1, 1, 16)
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    shift = torch.rand(count, 2, 1, 1, generator=generator) - 0.5
    if task == "stripes":  # by their direction
        angle = (label * torch.pi / CLASSES)[:, None, None]
        phase = 6.3 * shift[:, 0]
        clean = torch.sin(8 * (x * torch.cos(angle) + y * torch.sin(angle)) + phase)
    elif task == "blobs":  # by their quarter
        centre = (
            torch.stack([(label % 2) - 0.5, (label // 2) - 0.5], 1)[:, :, None, None] + shift / 2
        )
        clean = 2 * torch.exp(-((x - centre[:, 0]) ** 2 + (y - centre[:, 1]) ** 2) * 12)
    else:  # rings, by their radius
        radius = 0.25 + 0.2 * label[:, None, None]
        distance = ((x - shift[:, 0] / 3) ** 2 + (y - shift[:, 1] / 3) ** 2).sqrt()
        clean = 2 * torch.exp(-((distance - radius) ** 2) * 60)
    noise = torch.randn(count, 3, 16, 16, generator=generator)
    return clean[:, None] + 2 * noise, label


def train(network, heads, steps, seed, rate=2e-3):
    """Train on the tasks of the heads in turn."""
    torch.manual_seed(seed)
    network.train()
    parameters = [*network.parameters(), *(p for head in heads.values() for p in head.parameters())]
    optimizer = torch.optim.AdamW(parameters, rate)
    for step in range(steps):
        task = list(heads)[step % len(heads)]
        x, label = images(task, 64, 1000 * seed + step)
        loss = F.cross_entropy(heads[task](network(x)), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()


@torch.no_grad()
def accuracy(network, head, task):
    x, label = images(task, 500, 7)
    return 100 * (head(network(x)).argmax(1) == label).float().mean().item()


def family(steps=150):
    """A pretrained network, an expert for each task, and the tasks' heads."""
    torch.manual_seed(1)
    base = Network()
    heads = {task: nn.Linear(64, CLASSES) for task in TASKS}
    train(base, heads, steps // 2, seed=1)
    experts = {}
    for seed, task in enumerate(TASKS, 2):
        experts[task] = copy.deepcopy(base)
        train(experts[task], {task: heads[task]}, steps, seed, rate=1e-3)
    return base, experts, heads


def features(experts, samples=8):
    """What enters the layers of each expert, from a few images without labels."""
    recordings = {}
    for task, expert in experts.items():
        with catmerge.record(expert) as recorded, torch.no_grad():
            expert(images(task, samples, 5)[0])
        recordings[task] = recorded
    return recordings


def states(experts):
    return {task: expert.state_dict() for task, expert in experts.items()}


def scores(network, heads):
    return {task: accuracy(network, heads[task], task) for task in TASKS}


def main(steps=150):
    base, experts, heads = family(steps)
    recordings = features(experts)
    print("recorded:", len(recordings[TASKS[0]]), "parameters;", recordings[TASKS[0]].missed)

    def show(name, found):
        mean = sum(found.values()) / len(found)
        print(f"{name:28}" + "".join(f"{found[t]:9.1f}" for t in TASKS) + f"{mean:9.1f}")

    print(f"{'':28}" + "".join(f"{task:>9}" for task in TASKS) + f"{'mean':>9}")
    show("base", scores(base, heads))
    show("each expert on its task", {t: accuracy(experts[t], heads[t], t) for t in TASKS})
    for method, settings in (
        ("task-arithmetic", {"alpha": 0.4}),
        ("cat", {"alpha": 0.4}),
        ("tsv-m", {}),
        ("lot", {}),
    ):
        merged, _ = catmerge.merge(
            base.state_dict(), states(experts), method, statistics=recordings, **settings
        )
        network = copy.deepcopy(base)
        network.load_state_dict(merged)
        show(method, scores(network, heads))


if __name__ == "__main__":
    main()
