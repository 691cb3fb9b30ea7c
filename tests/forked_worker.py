"""The Python that tests give to Ray: workers are forks of one process that has imported everything.

A worker spends 1 to 8 seconds of CPU time on imports, and one small run starts a dozen workers. On
two cores these imports were most of the time of the tests that use Ray. Here one server imports
once, and each worker is a fork of it. A worker's code is the same as ever; its output, working
folder and environment are its own.

The fixture `worker_python` in `conftest.py` starts the server, with its socket as standard input.
Raylets then start `python -IS forked_worker.py ADDRESS ...` in place of `python ...`. For a worker,
that process asks for a fork, waits for it, and ends with its exit code. When one of the two is
killed, the other ends too. All else, and a worker when no server answers, starts in the usual way.
"""

import array
import contextlib
import json
import os
import selectors
import signal
import socket
import sys

MODULES = (
    "deepspeed",
    "torch._dynamo",
    "torchvision",
    "timm",
    "diffusers.loaders.lora_pipeline",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "transformers.models.clip.modeling_clip",
    "peft",
    "pandas",
    "pyarrow.dataset",
    "sklearn.metrics",
    "diffmix.generator.mixer",
    "diffmix.personalize.train",
    "diffmix.gates.clip",
    "diffmix.classifier.samples",
    "diffmix.datasets.prepare",
)
"""What the server imports. Ray is not among them: it reads a worker's environment when it is
imported, and takes half a second when all these are there.
"""

FORKED = b"f"


def main() -> None:
    """With arguments, what Python would run with all but the first of them; else the server."""
    if len(sys.argv) == 1:
        request = serve(socket.socket(fileno=os.dup(0)))
        if request is not None:
            become(request)
        return
    address, *arguments = sys.argv[1:]
    worker = worker_arguments(arguments)
    code = start_fork(address, worker) if worker else None
    if code is None:
        os.execv(sys.executable, [sys.executable, *arguments])
    sys.exit(code)


def worker_arguments(arguments: list[str]) -> list[str] | None:
    """A worker's script and its arguments; None if something else is to be started.

    For a worker with a runtime environment, Ray starts `setup_worker.py`, which imports Ray only to
    set variables and to start the worker. This sets them here.
    """
    variables = {}
    if arguments[0].endswith("setup_worker.py"):
        option = "--serialized-runtime-env-context="
        texts = [argument for argument in arguments if argument.startswith(option)]
        context = json.loads(texts[0].removeprefix(option)) if texts else {}
        if context.get("command_prefix") or context.get("py_executable") != sys.executable:
            return None
        variables = context["env_vars"]
        arguments = [
            argument
            for argument in arguments[1:]
            if not argument.startswith((option, "--language="))
        ]
    if not arguments[0].endswith("default_worker.py"):
        return None
    os.environ.update({name: os.path.expandvars(text) for name, text in variables.items()})
    return arguments


def start_fork(address: str, arguments: list[str]) -> int | None:
    """Ask for a fork and wait until it ends. Gives its exit code; None where none was made."""
    text = json.dumps(
        {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}
    ).encode()
    head = len(text).to_bytes(8, "big")
    descriptors = array.array("i", [0, 1, 2])
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(address)
            server.sendmsg([head], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
            server.sendall(text)
            if server.recv(1) != FORKED:
                return None
        except OSError:
            return None
        with contextlib.suppress(OSError):
            if code := server.recv(16):
                return int(code)
    return 1


def serve(listener: socket.socket) -> dict | None:
    """Import, then fork for each request until the tests' process ends. In a fork: the request."""
    import gc
    import importlib

    parent = os.pidfd_open(os.getppid())
    sys.path[0] = os.path.dirname(sys.path[0])
    os.environ["DS_ACCELERATOR"] = "cpu"  # what the engine sets before it imports DeepSpeed
    for module in MODULES:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    ended, wake = socket.socketpair()
    ended.setblocking(False)
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    clients: dict[int, socket.socket] = {}  # by the process id of their forks
    with selectors.DefaultSelector() as selector:
        for file in (parent, listener, ended):
            selector.register(file, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj == parent:
                    return None
                if key.fileobj is ended:
                    ended.recv(4096)
                    for pid, code in ended_forks():
                        with clients.pop(pid) as client:
                            # First: a socket that is closed may have its number taken by the next.
                            with contextlib.suppress(KeyError):
                                selector.unregister(client)
                            with contextlib.suppress(OSError):
                                client.sendall(str(code).encode())
                elif key.fileobj is listener:
                    client, _ = listener.accept()
                    request = receive(client)
                    if request is None:
                        client.close()
                        continue
                    pid = os.fork()
                    if pid == 0:
                        signal.set_wakeup_fd(-1)
                        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                        for file in (listener, ended, wake, client, *clients.values()):
                            file.close()
                        os.close(parent)
                        return request
                    for descriptor in request["descriptors"]:
                        os.close(descriptor)
                    client.sendall(FORKED)
                    clients[pid] = client
                    selector.register(client, selectors.EVENT_READ, pid)
                else:  # the process that Ray started was killed
                    selector.unregister(key.fileobj)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(key.data, signal.SIGKILL)


def ended_forks() -> list[tuple[int, int]]:
    """(process id, exit code) of the forks that have ended."""
    found = []
    with contextlib.suppress(ChildProcessError):
        while (one := os.waitpid(-1, os.WNOHANG))[0]:
            found.append((one[0], os.waitstatus_to_exitcode(one[1])))
    return found


def receive(client: socket.socket) -> dict | None:
    """A request, with `descriptors`: its standard input, output and error. None if it broke off."""
    try:
        head, descriptors, *_ = socket.recv_fds(client, 8, 3)
        text = client.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL)
        return json.loads(text) | {"descriptors": descriptors}
    except (OSError, ValueError):
        return None


def become(request: dict) -> None:
    """Run a worker's script in this process, which is a fork of the server."""
    import random
    import runpy

    import numpy as np

    os.setpgid(0, 0)
    for target, descriptor in enumerate(request["descriptors"]):
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    random.seed()
    np.random.seed()
    script, *_ = sys.argv = request["arguments"]
    sys.path[0] = os.path.dirname(script)
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
