"""Memory that the ranks of one node share: two pieces a rank to put data in, two for results, and a barrier.

The memory is an MPI window (`MPI.Win.Allocate_shared`). The barrier is made of POSIX semaphores inside it: a rank that
waits sleeps and leaves its core to others, where MPI's own barrier would poll; and sem_post(3) and sem_wait(3) order
what is written before and read after (POSIX.1-2017, 4.12 Memory Synchronization).
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import ctypes
import errno
import os
import time

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor

from hpcllm.parallel.mpi.waiting import TICK_S, WORDS_BYTES, Wait, as_said, check_said

NODE_BYTES = 64 * 2**20  # of all ranks of a node together, for each group, and no more
SEMAPHORE_BYTES = 64  # a cache line; a sem_t has 32 bytes on 64-bit Linux
HEAD_BYTES = 4096  # of a rank's part, for semaphores and what it calls
SPINS = 300  # looks at a semaphore before sleeping, some 100 us: less than it takes to be woken

_free = ctypes.CDLL(None, use_errno=True)  # gives the interpreter free
_held = ctypes.PyDLL(None, use_errno=True)  # for calls that return at once


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class NodeMemory:
    """Made by all ranks of `node`, which share memory, at the same time."""

    def __init__(self, node: MPI.Intracomm, wait: Wait, piece_bytes: int) -> None:
        self.rank, self.size = node.rank, node.size
        self._wait = wait
        self.piece_bytes = piece_bytes
        self._window = MPI.Win.Allocate_shared(_part_bytes(piece_bytes), 1, comm=node)
        parts = [np.asarray(self._window.Shared_query(rank)[0]).view(np.uint8) for rank in range(node.size)]
        self._slots = [_slots(part, self.piece_bytes) for part in parts]
        self._typed: dict[torch.dtype, list[list[Tensor]]] = {}
        self._words = [_words(part) for part in parts]
        self._number = 0
        self._make_semaphores(node, [part.ctypes.data for part in parts])

    def _make_semaphores(self, node: MPI.Intracomm, bases: list[int]) -> None:
        rounds = range((self.size - 1).bit_length())
        at = [[ctypes.c_void_p(base + SEMAPHORE_BYTES * number) for number in rounds] for base in bases]
        # In round i of a dissemination barrier a rank tells the one 2^i further on, and hears from the one 2^i before.
        self._rounds = [(at[(self.rank + 2**i) % self.size][i], at[self.rank][i]) for i in rounds]
        for _, mine in self._rounds:
            if _held.sem_init(mine, 1, 0):
                raise OSError(ctypes.get_errno(), "sem_init")
        node.Barrier()

    def given(self, dtype: torch.dtype, rank: int, piece: int) -> Tensor:
        """What a rank puts in: one of its two pieces, by the piece's number."""
        return self._of(dtype)[rank][piece % 2]

    def made(self, dtype: torch.dtype, rank: int, piece: int) -> Tensor:
        """What a rank has reduced."""
        return self._of(dtype)[rank][2 + piece % 2]

    def begin(self, pieces: int) -> int:
        """The number of the first piece of a collective that takes so many: its slots are those not used last."""
        first = self._number
        self._number += pieces
        return first

    def say(self, words: str, piece: int) -> None:
        """Leave word of what this rank is about to do; after the next barrier the others look."""
        self._words[self.rank][piece % 2] = np.frombuffer(as_said(words), np.uint8)

    def check(self, piece: int) -> None:
        """After a barrier: that all ranks of the node said the same. Raises CollectiveMismatch with what each said."""
        check_said([words[piece % 2].tobytes() for words in self._words])

    def barrier(self) -> None:
        """Wait for all ranks of the node. Raises CollectiveTimeout."""
        spins = 0 if self._wait.patient else SPINS
        for theirs, mine in self._rounds:
            _held.sem_post(theirs)
            for _ in range(spins):
                if _free.sem_trywait(mine) == 0:
                    break
            else:
                self._sleep(mine)

    def _sleep(self, semaphore: ctypes.c_void_p) -> None:
        while _free.sem_timedwait(semaphore, ctypes.byref(_soon())):
            if ctypes.get_errno() not in (errno.ETIMEDOUT, errno.EINTR):
                raise OSError(ctypes.get_errno(), "sem_timedwait")
            self._wait.tick()

    def free(self) -> None:
        """Give the memory back; all ranks of the node together, and nobody uses it any more."""
        self._slots, self._typed, self._words = [], {}, []
        self._window.Free()

    def _of(self, dtype: torch.dtype) -> list[list[Tensor]]:
        if dtype not in self._typed:
            self._typed[dtype] = [[slot.view(dtype) for slot in slots] for slots in self._slots]
        return self._typed[dtype]


def affordable(piece_bytes: int, ranks: int) -> int:
    """Bytes of a piece, `piece_bytes` at most: whole pages, and all ranks' four pieces within what a node gives."""
    return min(piece_bytes, NODE_BYTES // ranks // 4 // 4096 * 4096 or 4096)


def there_is_room(piece_bytes: int, ranks: int) -> bool:
    """Whether shared memory for so many ranks can be had; a full /dev/shm kills whoever touches it."""
    try:
        free = os.statvfs("/dev/shm")
    except OSError:
        return False
    return free.f_bavail * free.f_frsize > 2 * ranks * _part_bytes(piece_bytes)


def _part_bytes(piece_bytes: int) -> int:
    return HEAD_BYTES + 4 * piece_bytes


def _slots(part: np.ndarray, size: int) -> list[Tensor]:
    return [torch.from_numpy(part[HEAD_BYTES + slot * size : HEAD_BYTES + (slot + 1) * size]) for slot in range(4)]


def _words(part: np.ndarray) -> np.ndarray:
    return part[HEAD_BYTES - 2 * WORDS_BYTES : HEAD_BYTES].reshape(2, WORDS_BYTES)


def _soon() -> _Time:
    """A tick from now, by the clock that sem_timedwait(3) goes by."""
    seconds, nanoseconds = divmod(time.time_ns() + int(TICK_S * 1e9), 10**9)
    return _Time(seconds, nanoseconds)
