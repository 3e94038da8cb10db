"""Two processes with an NPU each: what every collective gives, from torch.distributed over the simulated HCCL."""

import json
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch_npu
from torch.multiprocessing.spawn import spawn

SIZE = 2


def collect(rank: int) -> dict[str, list[float]]:
    mine = torch.arange(4.0, device=f"npu:{rank}") + 10 * rank
    found = {}
    dist.all_reduce(total := mine.clone())
    found["all_reduce"] = total
    dist.all_reduce(most := mine.clone(), op=dist.ReduceOp.MAX)
    found["max"] = most
    dist.broadcast(told := mine.clone(), src=1)
    found["broadcast"] = told
    dist.all_gather_single(gathered := torch.empty(8, device=mine.device), mine)
    found["all_gather"] = gathered
    dist.reduce_scatter_single(scattered := torch.empty(2, device=mine.device), mine)
    found["reduce_scatter"] = scattered
    out, back = ([1, 3], [1, 2]) if rank == 0 else ([2, 2], [3, 2])
    dist.all_to_all_single(swapped := torch.empty(sum(back), device=mine.device), mine, back, out)
    found["all_to_all"] = swapped
    passed = mine.clone()
    (dist.send if rank == 0 else dist.recv)(passed, 1 - rank)
    found["send"] = passed
    return {name: value.tolist() for name, value in found.items()}


def work(rank: int, folder: str) -> None:
    torch_npu.npu.set_device(rank)
    dist.init_process_group("hccl", init_method=f"file://{folder}/store", rank=rank, world_size=SIZE)
    Path(folder, f"{rank}.json").write_text(json.dumps(collect(rank)))
    dist.destroy_process_group()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        spawn(work, (folder,), SIZE)
        print(json.dumps([json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(SIZE)]))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
