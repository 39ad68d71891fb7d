"""Script that test_processes.py runs in two processes: adapts an MLN to halves of a batch, together and alone."""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator

from mrda.networks import MLN
from mrda.networks.adaptation import adapt
from mrda.training.processes import Processes

processes = Processes(Accelerator(mixed_precision="no"), None)
rank = processes.accelerator.process_index
torch.manual_seed(0)
mln = MLN(scale=2, num_feat=4, num_body=2).double()
batch = [torch.rand(4, 3, 6 * size, 6 * size, dtype=torch.float64) for size in (1, 2, 2)]
half = [images[2 * rank : 2 * rank + 2] for images in batch]
torch.save(
    {
        "whole": adapt(mln, *batch, steps=3),
        "synced": adapt(mln, *half, steps=3, sync=processes.mean),
        "alone": adapt(mln, *half, steps=3),
        "any": [processes.any(False), processes.any(rank == 1)],
        "broadcast": processes.broadcast(("from", rank)),
        "gathered": processes.gather([str(rank)] * (rank + 1)),
    },
    Path(sys.argv[1]) / f"{rank}.pt",
)
processes.accelerator.end_training()
