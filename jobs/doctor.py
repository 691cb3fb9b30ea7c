"""`diffmix doctor`: what this machine has, what is missing, and what to do about it."""

from __future__ import annotations

import importlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from diffmix.errors import reason

if TYPE_CHECKING:
    from diffmix.config import Config
    from engine.nodes.node_check import NodeFacts


class Finding(NamedTuple):
    """One line of the report, and what to do about it."""

    state: str
    """`ok`, `note` (works, could be better) or `bad` (a run would fail)."""
    what: str
    advice: str = ""


def doctor() -> int:
    """Print the report and return the exit code: 0 if a run can start, 1 if something is `bad`."""
    from rich.console import Console
    from rich.markup import escape

    console, bad = Console(highlight=False, soft_wrap=True), 0
    for check in (_packages, _devices, _attention, _deepspeed, _compile, _ray, _disk):
        for finding in _guarded(check):
            color = {"ok": "green", "note": "yellow", "bad": "red"}[finding.state]
            text = finding.what + (f"\n      -> {finding.advice}" if finding.advice else "")
            console.print(f"[{color}]{finding.state:>4}[/]  {escape(text)}")
            bad += finding.state == "bad"
    return 1 if bad else 0


def doctor_of_cluster(config: Config) -> int:
    """The report on every node of the cluster at `run.address`, and the exit code."""
    from engine.nodes.node_check import check_nodes

    return print_nodes(check_nodes(config))


def print_nodes(nodes: list[NodeFacts]) -> int:
    """One table of all nodes, then what is wrong. Gives 1 where something is."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from engine.nodes.node_check import differences

    table = Table("node", "CPUs", "GPUs", "devices", "free disk", "run folder")
    bad = []
    for node in nodes:
        kinds = Counter(node.devices)
        devices = ", ".join(f"{number} x {name}" for name, number in kinds.items()) or "none"
        seen = {True: "yes", False: "no", None: ""}[node.sees_out]
        cells = (node.name, f"{node.cpus:g}", f"{node.gpus:g}", devices)
        table.add_row(*map(escape, cells), f"{node.free_gb:.0f} GB", seen)
        if node.error:
            bad.append(f"{node.name} did not answer ({node.error})")
        elif node.sees_out is False:
            bad.append(f"{node.name} does not see the run folder, or may not write there")
    differing = differences(nodes)
    for name, versions in differing.items():
        bad.append(f"{name} differs between nodes: {', '.join(map(str, versions))}")
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    for text in bad:
        console.print(f"[red] bad[/]  {escape(text)}")
    answered = [node for node in nodes if not node.error]
    if answered and not differing:
        which = "all nodes" if len(answered) == len(nodes) else "the nodes that answered"
        named = ", ".join(f"{name} {one}" for name, one in answered[0].versions.items() if one)
        console.print(f"[green]  ok[/]  {which} have the same versions: {escape(named)}")
    return 1 if bad else 0


def _guarded(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except Exception as error:
        yield Finding(
            "bad",
            f"{check.__name__.strip('_')}: {type(error).__name__}: {error}",
            "reinstall with the versions of constraints.txt",
        )


def _packages() -> Iterator[Finding]:
    from diffmix.versions import versions

    for name, version in versions().items():
        if version:
            yield Finding("ok", f"{name} {version}")
        elif name == "xformers":
            yield Finding(
                "note",
                "xformers is not installed",
                "attention uses torch's SDPA; "
                "`pip install -e '.[attention]' -c constraints.txt` adds xformers",
            )
        else:
            yield Finding("bad", f"{name} is not installed", "pip install -e . -c constraints.txt")
    importlib.import_module("torchvision")  # fails where its build does not fit torch's


def _devices() -> Iterator[Finding]:
    import psutil
    import torch

    memory = psutil.virtual_memory().total / 2**30
    yield Finding("ok", f"{os.cpu_count()} CPU cores, {memory:.0f} GiB memory")
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        number = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        yield Finding(
            "ok",
            f"GPU {index}: {device.name}, {device.total_memory / 2**30:.0f} GiB, "
            f"`auto` precision is {number}",
        )
    if not torch.cuda.is_available():
        yield Finding(
            "note",
            "no CUDA device: logical GPUs run on the CPU",
            "fine for `nano`; a real base model needs a GPU",
        )


def _attention() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        yield Finding("ok", "attention: SDPA (xformers has no CPU kernels)")
        return
    flash = torch.backends.cuda.flash_sdp_enabled()
    efficient = torch.backends.cuda.mem_efficient_sdp_enabled()
    yield Finding("ok", f"attention: SDPA kernels flash={flash}, efficient={efficient}")
    try:
        from xformers.ops import memory_efficient_attention

        query = torch.zeros(1, 64, 1, 64, device="cuda", dtype=torch.float16)
        memory_efficient_attention(query, query, query)
        yield Finding("ok", "attention: xformers kernels load")
    except ImportError:
        yield Finding("note", "attention: xformers is not installed", "SDPA is used")
    except (NotImplementedError, RuntimeError) as error:
        yield Finding(
            "note",
            f"attention: xformers' kernels do not load ({reason(error)})",
            "its build must fit torch's: see constraints.txt",
        )


def _deepspeed() -> Iterator[Finding]:
    from engine.training.deepspeed_config import prepare_environment

    prepare_environment()
    import deepspeed  # noqa: F401 - importing it is the check

    yield Finding(
        "ok", "deepspeed imports; training uses torch's optimizers, so it has nothing to build"
    )


def _compile() -> Iterator[Finding]:
    """What torch.compile needs: Inductor builds C++ on CPUs; Triton builds a C extension of
    Python's for each GPU.
    """
    import sysconfig

    import torch

    scheme = sysconfig.get_default_scheme()
    # As Triton does: Debian's own Python has its headers elsewhere than its packages.
    scheme = "posix_prefix" if scheme == "posix_local" else scheme
    header = os.path.join(sysconfig.get_paths(scheme)["include"], "Python.h")
    needed = {"C++ compiler (g++ or clang++)": _first_of("g++", "clang++")}
    if torch.cuda.is_available():
        needed["C compiler (gcc or clang)"] = os.environ.get("CC") or _first_of("gcc", "clang")
        needed["Python.h"] = header if os.path.exists(header) else None
    missing = [name for name, found in needed.items() if not found]
    if not missing:
        found = ", ".join(str(found) for found in needed.values())
        yield Finding("ok", f"torch.compile has what it needs: {found}")
        return
    yield Finding(
        "note",
        f"no {' and no '.join(missing)}: torch.compile cannot build its kernels",
        "training needs none; install g++ (and gcc and python3-dev on a GPU machine) to use "
        "--model.compile or --personalize.compile",
    )


def _first_of(*programs: str) -> str | None:
    return next(filter(None, map(shutil.which, programs)), None)


def _ray() -> Iterator[Finding]:
    address = os.environ.get("RAY_ADDRESS")
    yield Finding(
        "ok",
        f"a cluster is named in RAY_ADDRESS: {address}"
        if address
        else "no RAY_ADDRESS: `diffmix run` starts Ray on this machine",
    )


def _disk() -> Iterator[Finding]:
    import tempfile

    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free / 2**30
    yield Finding(
        "ok" if free > 5 else "note",
        f"{free:.0f} GiB free in {folder} (Ray's files, each train worker's pool of mixes)",
        "" if free > 5 else "set TMPDIR",
    )
