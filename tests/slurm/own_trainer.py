"""A trainer as its author left it: it imports torch, knows nothing of hpcllm, and goes on from a checkpoint of its own.

    torchrun own_trainer.py FOLDER STEPS        or any launcher that says RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT

A line on the data of a step that only the step determines, an all-reduce of the gradients, a checkpoint every fifth
step. At the end FOLDER/weights.pt holds the weights.
"""

import os
import sys
import time

import torch
import torch.distributed as dist

folder, steps = sys.argv[1], int(sys.argv[2])
checkpoint = os.path.join(folder, "checkpoint.pt")
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

torch.manual_seed(0)
model = torch.nn.Linear(16, 4)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
first = 0
if os.path.exists(checkpoint):
    saved = torch.load(checkpoint)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    first = saved["step"]
print(f"from step {first}", flush=True)


def save(what: object, path: str) -> None:
    torch.save(what, f"{path}.new")
    os.replace(f"{path}.new", path)


for step in range(first, steps):
    data = torch.randn(8, 16, generator=torch.Generator().manual_seed(step * world + rank))
    loss = (model(data) - data[:, :4]).square().mean()
    optimizer.zero_grad()
    loss.backward()
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad)
        parameter.grad /= world
    optimizer.step()
    time.sleep(0.1)  # the work of a larger model
    if rank == 0 and (step + 1) % 5 == 0:
        save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}, checkpoint)
        print(f"step {step + 1} loss {loss.item():.4f}", flush=True)

if rank == 0:
    save(model.state_dict(), os.path.join(folder, "weights.pt"))
dist.destroy_process_group()
