"""Ranks: the processes of one data-parallel training, and all that they say to one another.

Every process holds the whole model and takes its block of each batch; gradients are averaged, so that all make the same
step. The first one (rank 0) decides, reads and writes files and talks; the others follow. With one process nothing here
does anything. Started by torchrun, or by whatever made a process group before (Ray Train).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

from kakusan.part import KakusanError

__all__ = ["ALONE", "Lost", "Ranks", "join"]

STEP = timedelta(minutes=10)  # a process that is this late, at the start or in a step, counts as hanging
PATIENCE = timedelta(days=2)  # while one reads the data, plans, draws or saves; a death is noticed at once all the same
NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # what torchrun sets
T = TypeVar("T")


class Lost(KakusanError):
    """Another process of the training has ended or hangs."""


class Ranks:
    """Process ``rank`` of ``world``; ``local`` counts those on one machine. ``ALONE`` is the only one."""

    def __init__(self, rank: int = 0, world: int = 1, local: int = 0) -> None:
        self.rank, self.world, self.local = rank, world, local
        self.first = rank == 0
        if world > 1:
            import torch.distributed as dist

            # flags and plain data travel by gloo between CPUs, whatever moves the gradients: nothing waits for a GPU
            with self.together("at the start"):
                self._quick = dist.new_group(backend="gloo", timeout=STEP)
                self._patient = dist.new_group(backend="gloo", timeout=PATIENCE)

    # -- what training needs ---------------------------------------------------------------------------------

    def device(self, wanted: str) -> str:
        """The device of this process: with several on a machine each takes the GPU of its number."""
        if self.world == 1 or wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
            return "cpu" if self.world > 1 else wanted
        if wanted not in ("auto", "cuda") and not re.fullmatch(r"cuda:\d+", wanted):
            raise KakusanError(f"--device {wanted} with {self.world} processes: use cpu or cuda")
        count = torch.cuda.device_count()
        if 1 < count <= self.local:
            raise KakusanError(f"process {self.rank} is number {self.local} of a machine with {count} GPUs")
        return f"cuda:{self.local if count > 1 else 0}"

    @torch.no_grad()
    def share(self, tensors: Iterable[Tensor]) -> None:
        """Fill the tensors of every process with the first one's."""
        if self.world == 1:
            return
        import torch.distributed as dist

        with self.together("while weights were shared"):
            for tensor in tensors:
                flat = tensor.detach().reshape(-1).clone()
                dist.broadcast(flat, 0, group=self._group(flat))
                if not self.first:
                    tensor.copy_(flat.view(tensor.shape))

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of all processes' tensors, the same in each."""
        if self.world == 1:
            return tensor
        import torch.distributed as dist

        out = tensor.detach().clone()
        with self.together("while losses were added up"):
            dist.all_reduce(out, group=self._group(out))
        return out

    @torch.no_grad()
    def level(self, tensors: Iterable[Tensor]) -> None:
        """Fill the tensors of every process with the mean of all."""
        if self.world > 1:
            for tensor in tensors:
                tensor.copy_(self.total(tensor) / self.world)

    def begin_total(self, tensor: Tensor) -> Any:
        """Begin to add up all processes' tensors in place; ``wait()`` of what is returned ends it."""
        import torch.distributed as dist

        return dist.all_reduce(tensor, group=self._group(tensor), async_op=True)

    def agree(self, *flags: bool) -> list[bool]:
        """Each flag: whether any process raises it. One small message, made at every step."""
        if self.world == 1:
            return list(flags)
        import torch.distributed as dist

        raised = torch.tensor(flags, dtype=torch.int32)
        with self.together("between two steps"):
            dist.all_reduce(raised, dist.ReduceOp.MAX, group=self._quick)
        return [bool(f) for f in raised.tolist()]

    # -- what preparing, saving and finishing need -----------------------------------------------------------

    def wait(self) -> None:
        """Until all processes are here."""
        self.gather(None)

    def gather(self, value: Any) -> list[Any]:
        """Every process's plain data, in the order of ranks."""
        if self.world == 1:
            return [value]
        import torch.distributed as dist

        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        with self.together("while waiting for it"):
            dist.all_gather(sizes, torch.tensor([len(data)]), group=self._patient)
            longest = max(int(s) for s in sizes)
            padded = torch.zeros(longest, dtype=torch.uint8)
            padded[: len(data)] = data
            found = [torch.zeros_like(padded) for _ in range(self.world)]
            dist.all_gather(found, padded, group=self._patient)
        return [json.loads(bytes(f[: int(n)].tolist())) for f, n in zip(found, sizes)]

    def lead(self, work: Callable[[], T]) -> T:
        """The first process works; all get the result (plain data), or fail as it failed, which it alone tells."""
        if self.world == 1:
            return work()
        outcome: dict[str, Any] = {}
        failure: KakusanError | None = None
        if self.first:
            try:
                outcome = {"made": work()}
            except KakusanError as error:
                failure, outcome = error, {"failed": str(error)}
        told = self.gather(outcome)[0]
        if "failed" in told:
            raise failure or self.error(told["failed"])
        return outcome["made"] if self.first else told["made"]

    def in_turn(self, work: Callable[[], T]) -> T:
        """Everyone works, one process of each machine before the others, which find what it left on the disk."""
        if self.world == 1:
            return work()
        made: list[T] = []
        failure: KakusanError | None = None
        if self.local == 0:
            try:
                made.append(work())
            except KakusanError as error:
                failure = error
        failures = [f for f in self.gather(None if failure is None else str(failure)) if f is not None]
        if failures:
            if failure is not None and (self.first or str(failure) != failures[0]):
                raise failure
            raise _told(failures[0])
        return made[0] if made else work()

    def same(self, value: Any, what: str) -> None:
        """Raise KakusanError where a process has another value than the first one."""
        values = self.gather(value)
        for rank, other in enumerate(values):
            if other != values[0]:
                raise self.error(f"{what} of process {rank} is not that of process 0: give all machines the same")

    # -- failing ---------------------------------------------------------------------------------------------

    def error(self, text: str) -> KakusanError:
        """An error that all processes come to at once: told by the first one."""
        return KakusanError(text) if self.first else _told(text)

    @contextmanager
    def together(self, when: str) -> Iterator[None]:
        """Name what it means when a message to the other processes fails."""
        try:
            yield
        except RuntimeError as error:
            if self.world == 1 or not _broken(error):
                raise
            reason = str(error).strip().splitlines()[0][:160]
            raise Lost(
                f"process {self.rank} of {self.world} lost another one {when} ({reason}); that one's own message says "
                "why, if it left any; go on from the last checkpoint with kakusan resume, started the same way"
            ) from error

    def _group(self, tensor: Tensor) -> Any:
        return self._quick if tensor.device.type == "cpu" else None


ALONE = Ranks()


@contextmanager
def join() -> Iterator[Ranks]:
    """Meet the other processes of this training, if there are any, and part from them at the end."""
    given = {name: os.environ.get(name) for name in NEEDED}
    from torch import distributed as dist

    if dist.is_available() and dist.is_initialized():  # made by others, who end it as well
        world = dist.get_world_size()
        yield Ranks(dist.get_rank(), world, int(given["LOCAL_RANK"] or 0)) if world > 1 else ALONE
        return
    if (given["RANK"] is None and given["WORLD_SIZE"] is None) or given["WORLD_SIZE"] == "1":
        yield ALONE
        return
    rank, world, local = _seat(given)
    nccl = torch.cuda.is_available() and dist.is_nccl_available()
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if nccl else "gloo", timeout=STEP, rank=rank, world_size=world)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:160]
        where = f"{given['MASTER_ADDR']}:{given['MASTER_PORT']}"
        raise KakusanError(
            f"process {rank} of {world} did not meet the others at {where} ({reason}); start as many as --nnodes and "
            "--nproc-per-node say"
        ) from error
    if nccl:
        torch.cuda.set_device(local if torch.cuda.device_count() > 1 else 0)
    yield Ranks(rank, world, local)
    dist.destroy_process_group()  # not after an error: the others may be gone, and it could wait for them


def _seat(given: dict[str, str | None]) -> tuple[int, int, int]:
    """rank, world and local rank from torchrun's environment, which is either whole or refused."""
    absent = [name for name, value in given.items() if not value]
    if absent:
        there = ", ".join(name for name, value in given.items() if value)
        raise KakusanError(
            f"{there} set but {', '.join(absent)} not: start several processes with torchrun (it sets them all), or "
            "unset them to train with one"
        )
    try:
        rank, world, local = (int(given[name] or "") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    except ValueError:
        raise KakusanError(
            f"RANK={given['RANK']}, WORLD_SIZE={given['WORLD_SIZE']}, LOCAL_RANK={given['LOCAL_RANK']}: need numbers"
        ) from None
    if not 0 <= rank < world or local < 0:
        raise KakusanError(f"RANK={rank}, WORLD_SIZE={world}: the rank counts from 0 to one less than the world size")
    return rank, world, local


def _told(text: str) -> KakusanError:
    error = KakusanError(text)
    error.told = True  # type: ignore[attr-defined]  # by another process: the command line leaves it unsaid
    return error


def _broken(error: RuntimeError) -> bool:
    """Whether an error speaks of the connection to other processes; gloo's are plain RuntimeErrors."""
    words = r"gloo|connection (closed|reset|refused)|broken pipe|timed out|nccl|socket|distnetwork|distbackend"
    return re.search(words, f"{type(error).__name__} {error}", re.I) is not None
