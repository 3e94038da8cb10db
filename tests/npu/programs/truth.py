"""What the CPU makes of the models, by references: `truth.py FILE` writes it for all who compare with it."""

import sys

import torch
from npu.models import PARTS

if __name__ == "__main__":
    torch.save({str(part): part.truth() for part in PARTS}, sys.argv[1])
