"""The mpi4py backend of torch.distributed, in its parts; `hpcllm.parallel.mpi_backend` registers it."""
