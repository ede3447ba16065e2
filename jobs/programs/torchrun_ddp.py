"""Data-parallel training as for torchrun. All ranks end with the same weights."""

import os

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

STEPS, BATCH, FEATURES = 50, 64, 16

on_gpus = torch.cuda.is_available()
distributed.init_process_group("nccl" if on_gpus else "gloo")
rank, world_size = distributed.get_rank(), distributed.get_world_size()
device = torch.device("cpu")
if on_gpus:
    # Where the launcher shows each rank its own GPU alone, that is number 0.
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    torch.cuda.set_device(device)

torch.manual_seed(1)
network = nn.Sequential(nn.Linear(FEATURES, 32), nn.GELU(), nn.Linear(32, 1)).to(device)
model = DistributedDataParallel(network)
optimizer = torch.optim.AdamW(model.parameters(), lr=float(os.environ.get("LEARNING_RATE", "1e-2")))
sampler = torch.Generator().manual_seed(100 + rank)

for step in range(STEPS):
    x = torch.randn(BATCH, FEATURES, generator=sampler).to(device)
    loss = nn.functional.mse_loss(model(x).squeeze(1), x.sum(dim=1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if rank == 0 and step % 10 == 0:
        print(f"step {step} loss {loss.item():.4f}", flush=True)

checksum = sum(parameter.double().sum() for parameter in network.parameters())
print(f"rank {rank} of {world_size}: weights {checksum.item():.10f}", flush=True)
distributed.destroy_process_group()
