"""Whether versions of torch_npu, CANN and the driver go together, by the published tables (`compatibility.toml`)."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from deepport.finding import Finding, ok, unknown, wrong


@cache
def table() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name("compatibility.toml").read_text(encoding="utf-8"))


def made_for(torch_npu: str) -> str:
    """The CANN that a torch_npu's release is made for, "" where no release that we have read of has it."""
    found = next((r for r in table()["release"] if torch_npu in r["packages"]), None)
    return str(found["cann"]) if found else ""


def with_cann(torch_npu: str, cann: str) -> Finding:
    """Of an installed torch_npu and CANN, "" where the version is not known."""
    check = "torch_npu with CANN"
    if not torch_npu or not cann:
        return unknown(check, f"the version of {'CANN' if torch_npu else 'torch_npu'} is not known")
    release = next((r for r in table()["release"] if torch_npu in r["packages"]), None)
    if release is None:
        return unknown(check, f"torch_npu {torch_npu} is in no table that we have read (compatibility.toml)")
    product = f"torch_npu {torch_npu} is of TorchNPU {release['torchnpu']}, made for CANN {release['cann']}"
    if _line(cann) == _line(release["cann"]):
        return ok(check, product)
    lines = table()["runs_with"]
    if _line(release["torchnpu"]) in lines["torchnpu"] and _line(cann) in lines["cann"]:
        return ok(check, f"{product}; it is said to run with {cann}, too")
    return unknown(check, f"{product}; of {cann} nothing is said", f"install CANN {release['cann']}")


def with_driver(cann: str, driver: str) -> Finding:
    """Of an installed CANN and driver, "" where the version is not known."""
    check = "driver with CANN"
    if not cann or not driver:
        return unknown(check, f"the version of {'the driver' if cann else 'CANN'} is not known")
    row = next((r for r in table()["driver"] if r["cann"] == _line(cann)), None)
    if row and _line(driver) in row["runs_with"]:
        return ok(check, f"CANN {cann} runs with driver {driver}")
    if row and _line(driver) in row.get("not_with", ()):
        return wrong(
            check,
            f"CANN {cann} does not run with driver {driver}",
            f"install a driver of {', '.join(row['runs_with'])}",
            advice=True,
        )
    return unknown(check, f"of CANN {cann} with driver {driver} nothing is said in the tables that we have read")


def _line(version: str) -> str:
    """A line of releases: `9.1` of `9.1.0`, `8.3` of `8.3.RC1`."""
    return ".".join(version.split(".")[:2])
