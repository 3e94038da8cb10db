"""An operator that torch_npu has not, with the vendor's switch off: what the CPU computes, and the copies that it cost."""

import json
import os

os.environ["TORCH_NPU_FALLBACK_CPU_DISABLE"] = "0"

import torch
import torch_npu  # noqa: F401  (registers the device)


def main() -> None:
    from cann.dispatch import BY_FALLBACK
    from cann.started import dispatcher

    x = torch.tensor([0.0, 1.0, 2.0])
    there = x.to("npu")
    asked = there.cpu()
    before = dispatcher.copies[BY_FALLBACK]
    found = torch.special.i0(there)
    after = dispatcher.copies[BY_FALLBACK]
    right = torch.equal(found.cpu(), torch.special.i0(x)) and torch.equal(asked, x)
    print(json.dumps({"right": right, "asked for": before, "by a fallback": after}))


if __name__ == "__main__":
    main()
