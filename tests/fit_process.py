"""A fit to be run in a process of its own: killed, restarted, or one of several ranks."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import warnings
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from conftest import LAYERS, make_net
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    Subset,
    SubsetRandomSampler,
)

from captum_kmex import KMExAttribution, LayerKMeansAttribution

N_IMAGES = 30


class Images(Dataset[tuple[Tensor, int]]):
    """Noisy bright quadrants; dies by SIGKILL when it has been read so often."""

    def __init__(self, count: int = N_IMAGES, dies_after: int = -1) -> None:
        generator = torch.Generator().manual_seed(1)
        self.images = 0.5 * torch.rand(count, 1, 16, 16, generator=generator)
        for i in range(count):
            row, column = divmod(i % 3, 2)
            self.images[i, 0, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 1
        self.dies_after = dies_after
        self.reads = 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if self.reads == self.dies_after:
            os.kill(os.getpid(), signal.SIGKILL)
        self.reads += 1
        return self.images[index], index % 3


def make_loader(kind: str, data: Images) -> object:
    """Return a loader over the images; a distributed kind reads this rank's shard."""
    samplers = {
        "sampler": lambda: SubsetRandomSampler(
            range(0, len(data), 2), generator=torch.Generator().manual_seed(3)
        ),
        "distributed": lambda: DistributedSampler(data, shuffle=False),
        "shuffled_distributed": lambda: DistributedSampler(data, shuffle=True),
    }
    if kind in samplers:
        return DataLoader(data, batch_size=4, sampler=samplers[kind]())
    if kind == "list":
        ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        own = list(range(ranks[0], len(data), ranks[1]))
        return _Batches(data, [own[i : i + 4] for i in range(0, len(own), 4)])
    if kind == "subset":
        own = range(dist.get_rank(), len(data), dist.get_world_size())
        return DataLoader(Subset(data, own), batch_size=4)
    if kind == "first_rank_only":
        return [] if dist.get_rank() else list(DataLoader(data, batch_size=4))
    if kind == "one_class":
        own = [i for i in range(len(data)) if i % 3 == 0][dist.get_rank() :: dist.get_world_size()]
        return DataLoader(Subset(data, own), batch_size=4)
    return DataLoader(data, batch_size=4, shuffle=kind == "shuffled")


class _Batches:
    """A plain iterable of batches, without positions."""

    def __init__(self, data: Images, batches: list[list[int]]) -> None:
        self.data, self.batches = data, batches

    def __iter__(self):
        for batch in self.batches:
            images, labels = zip(*(self.data[i] for i in batch), strict=True)
            yield torch.stack(images), torch.tensor(labels)


def make_attribution(method: str) -> KMExAttribution | LayerKMeansAttribution:
    """Return an unfitted attribution of a small net."""
    net = make_net()
    if method == "kmex":
        return KMExAttribution(net, n_prototypes=2)
    if method == "headless":  # the ridge surrogate's sums are part of the progress
        net.head = torch.nn.Sequential(net.head, torch.nn.Softplus())
    return LayerKMeansAttribution(net.eval(), LAYERS, n_prototypes=2)


def run(arguments: list[str]) -> None:
    """Fit, save the bank of this rank and note how many images were read."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bank")
    parser.add_argument("--checkpoint")
    parser.add_argument("--method", default="layers")
    parser.add_argument("--loader", default="plain")
    parser.add_argument("--refine", type=int, default=1)
    parser.add_argument("--dies-after", type=int, default=-1)
    parser.add_argument("--budget", type=int, default=30_000)
    parser.add_argument("--images", type=int, default=N_IMAGES)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    data = Images(options.images, options.dies_after)
    attr = make_attribution(options.method).fit(
        make_loader(options.loader, data),
        refine=options.refine,
        memory_budget=options.budget,
        checkpoint=options.checkpoint,
        checkpoint_interval=0,
    )
    attr.save(options.bank)
    Path(f"{options.bank}.reads").write_text(str(data.reads))
    print(f"reads {data.reads}", flush=True)


def run_rank(rank: int, world_size: int, store: str, arguments: list[str]) -> None:
    """Do the same as one of several ranks; an error is noted beside the bank."""
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=60),
    )
    bank = f"{arguments[0]}.{rank}"
    try:
        run([bank, *arguments[1:]])
    except ValueError as error:
        Path(f"{bank}.error").write_text(str(error))
    dist.destroy_process_group()


if __name__ == "__main__":
    run(sys.argv[1:])
