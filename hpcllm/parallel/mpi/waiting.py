"""How a rank waits in a collective: until MPI is done or memory is ready, no longer than allowed, and able to say why.

A rank that has waited too long asks the others over MPI whether they are in the same collective. Those that are answer
from their own wait; those that do not answer are named in the error.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from mpi4py import MPI

from hpcllm.units import as_ranges

WORDS_BYTES = 128  # in which ranks tell each other what they are about to do
QUESTION = 1  # a tag of our own communicator; collectives send on tag 0
TICK_S = 0.1  # between two looks at the deadline and at the others' questions
ANSWER_S = 2.0  # given to the others to answer
SPINS = 200  # looks at a request in quick succession before the core is given up, some 100 us
NAP_S = 20e-6
MOST_NAMES = 8  # of ranks that did not arrive, in a message
LONGEST_NAP_S = 500e-6  # of a rank whose core is computing meanwhile


class CollectiveTimeout(RuntimeError):  # what torch's users catch from other backends is a RuntimeError
    """A collective took longer than its group's timeout. The text names the ranks that did not arrive."""


class CollectiveMismatch(RuntimeError):
    """The ranks of a group called different collectives, or with other sizes or types."""

    def __init__(self, said: Sequence[str]) -> None:
        """`said`: what each rank was about to do, by rank of the group or of the node."""
        ranks: dict[str, list[int]] = {}
        for rank, words in enumerate(said):
            ranks.setdefault(words, []).append(rank)
        who = "; ".join(f"rank{'s' * (len(r) > 1)} {as_ranges(r)}: {words}" for words, r in ranks.items())
        super().__init__(f"mpi4py backend: the ranks do not call the same collective: {who}")


def as_said(words: str) -> bytes:
    """What a rank is about to do, in as many bytes as on every other rank."""
    return words.encode()[:WORDS_BYTES].ljust(WORDS_BYTES)


def check_said(said: Sequence[bytes]) -> None:
    """That all ranks said the same. Raises CollectiveMismatch with what each did."""
    if len(set(said)) > 1:
        raise CollectiveMismatch([words.decode(errors="replace").strip() for words in said])


@dataclass(frozen=True)
class Call:
    """One collective of one group, as it is told to a person."""

    name: str
    number: int
    group: str
    timeout_s: float

    def __str__(self) -> str:
        return f"{self.name} (collective {self.number} of group {self.group})"


class Wait:
    """What a group's collectives wait with: one deadline at a time, and the way to ask the others."""

    def __init__(self, comm: MPI.Intracomm, names: Sequence[str], cores_per_rank: float) -> None:
        """`names`: of the ranks of `comm`, as a person is told of them."""
        self._comm = comm
        self._names = names
        self._call: Call | None = None
        self._deadline = 0.0
        self._next_tick = 0.0
        self.crowded = cores_per_rank < 1
        self.shares_its_core = cores_per_rank < 2
        """With the thread that computes: what is done here, that one does not do."""
        self._beside_compute = False
        self._hurried = 0

    @contextmanager
    def during(self, call: Call, *, beside_compute: bool) -> Iterator[None]:
        """A collective from its start to its end. `beside_compute`: its rank is at work in another thread."""
        now = time.monotonic()
        self._call, self._deadline, self._next_tick = call, now + call.timeout_s, now + TICK_S
        self._beside_compute = beside_compute
        try:
            yield
        finally:
            self._call = None

    @contextmanager
    def hurried(self) -> Iterator[None]:
        """Meanwhile a thread has nothing else to do than to wait for what is under way: nobody needs the core."""
        self._hurried += 1
        try:
            yield
        finally:
            self._hurried -= 1

    @property
    def patient(self) -> bool:
        """Whether to sleep rather than to spin: somebody else needs the core."""
        return self.crowded or (self._beside_compute and self.shares_its_core and not self._hurried)

    def complete(self, request: MPI.Request) -> None:
        """Wait for an MPI request. Raises CollectiveTimeout."""
        for _ in range(1 if self.patient else SPINS):
            if request.Test():
                return
        nap = NAP_S
        while not request.Test():
            self.tick()
            if self.patient:
                time.sleep(nap)
                nap = min(2 * nap, LONGEST_NAP_S)

    def tick(self) -> None:
        """Now and then: look at the deadline, and answer ranks that ask. Raises CollectiveTimeout."""
        now = time.monotonic()
        if now < self._next_tick or self._call is None:
            return
        self._next_tick = now + TICK_S
        asked = self._questions()
        if asked:
            self._give_up(f"{self._names[asked[0]]} gave up after {self._call.timeout_s:g} s", self._arrived(asked))
        if now > self._deadline:
            self._give_up(f"not done within {self._call.timeout_s:g} s", self._arrived([]))

    # Asking: a message with the number of the collective that its sender is in.

    def _arrived(self, known: Sequence[int]) -> set[int]:
        """The ranks that are in this same collective: they are asked, and have a moment to answer by asking back."""
        assert self._call is not None
        arrived = {self._comm.rank, *known}
        number = bytearray(self._call.number.to_bytes(8, "little"))
        others = [rank for rank in range(self._comm.size) if rank != self._comm.rank]
        self._sent = number, [self._comm.Isend([number, MPI.BYTE], rank, QUESTION) for rank in others]
        until = time.monotonic() + ANSWER_S
        while time.monotonic() < until and len(arrived) < self._comm.size:
            arrived.update(self._questions())
            time.sleep(NAP_S)
        return arrived

    def _questions(self) -> list[int]:
        """Ranks that ask who is in this collective; asking says that they are in it themselves."""
        assert self._call is not None
        ranks, status, theirs = [], MPI.Status(), bytearray(8)
        while self._comm.Iprobe(MPI.ANY_SOURCE, QUESTION, status):
            self._comm.Recv([theirs, MPI.BYTE], status.Get_source(), QUESTION)
            if int.from_bytes(theirs, "little") == self._call.number:
                ranks.append(status.Get_source())
        return ranks

    def _give_up(self, why: str, arrived: set[int]) -> None:
        missing = [name for rank, name in enumerate(self._names) if rank not in arrived]
        more = f" and {len(missing) - MOST_NAMES} more" if len(missing) > MOST_NAMES else ""
        absent = (
            f"{', '.join(missing[:MOST_NAMES])}{more} did not arrive" if missing else "all ranks have arrived by now"
        )
        said = f"mpi4py backend: {self._names[self._comm.rank]} waits in {self._call}: {why}; {absent}"
        print(f"{said}\n{_stack()}", file=sys.stderr, flush=True)
        raise CollectiveTimeout(said)


def _stack() -> str:
    """Where the program waits: the stack of its main thread, the last calls of ours left out."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    lines = traceback.format_stack(frame) if frame else []
    return "".join(line for line in lines if os.path.dirname(__file__) not in line)
