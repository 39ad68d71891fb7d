"""DistributedDataParallel: each process has its own samples, all end with the mean of their gradients."""

import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from calls import Call
from torch import nn

from mrda_kernels import rda_conv2d

WORLD = 2
pytestmark = pytest.mark.xdist_group("system")


class Layer(nn.Module):
    """Kernels from a vector, as in the network."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.predict = nn.Parameter(torch.randn(4 * 9, 3, generator=generator) / 3)
        self.mask_weight = nn.Parameter(torch.randn(1, 4, 1, 1, generator=generator) / 2)
        self.mask_bias = nn.Parameter(torch.zeros(1))

    def forward(self, input, vector):
        weight = (vector @ self.predict.t()).view(-1, 4, 3, 3)
        return rda_conv2d(input, weight, self.mask_weight, self.mask_bias, output_negative_slope=0.1)


def loss(layer, seed, device):
    input = Call((2, 4, 5, 6), seed=seed, dyadic=False).tensors()[0].to(device)
    vector = torch.randn(2, 3, generator=torch.Generator().manual_seed(seed)).to(device)
    return layer(input, vector).square().mean()


def train(rank, world, communication, port, folder):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    device = "cuda" if communication == "nccl" else "cpu"
    dist.init_process_group(communication, rank=rank, world_size=world)
    layer = nn.parallel.DistributedDataParallel(Layer().to(device))
    loss(layer, rank, device).backward()
    torch.save([p.grad.cpu() for p in layer.parameters()], folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("communication", "world"), [("gloo", WORLD), pytest.param("nccl", 1, marks=pytest.mark.gpu)], ids=["gloo", "nccl"]
)
def test_processes_end_with_the_mean_of_their_gradients(communication, world, tmp_path):
    store = dist.TCPStore("127.0.0.1", 0, is_master=True)  # finds a free port
    port = store.port
    del store
    mp.spawn(train, args=(world, communication, port, tmp_path), nprocs=world)
    alone = Layer()
    sum(loss(alone, rank, "cpu") / world for rank in range(world)).backward()
    grads = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(world)]
    for number, p in enumerate(alone.parameters()):
        for rank in range(world):
            # means over 240 elements of a few roundings each
            torch.testing.assert_close(grads[rank][number], p.grad, rtol=1e-4, atol=1e-6)
        assert all(torch.equal(grads[0][number], grads[rank][number]) for rank in range(world))
