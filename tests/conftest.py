"""Settings that have to be there before Ray or a hub client is imported; small models, images and
jobs; the cluster that tests share.
"""

import contextlib
import gc
import io
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from threading import Event

import numpy as np
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Ray would write a token file into the home folder and expect it of every process.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray Train looks this often whether its workers are done, by default every two seconds.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.3")

CLASS_NAMES = ["Red_Fox", "gray wolf", "Füchslein 狐", "lynx"]


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory) -> Path:
    """A saved pipeline: 32 px images, 4 x 8 x 8 latents, byte-level tokenizer."""
    import torch
    from diffusers import (
        AutoencoderKL,
        DPMSolverMultistepScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("tiny") / "base"
    torch.manual_seed(0)
    letters = sorted(ByteLevel.alphabet())
    symbols = (
        letters + [letter + "</w>" for letter in letters] + ["<|startoftext|>", "<|endoftext|>"]
    )
    vocab, merges = folder.parent / "vocab.json", folder.parent / "merges.txt"
    vocab.write_text(json.dumps({symbol: i for i, symbol in enumerate(symbols)}))
    merges.write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(_tokenizer_folder(folder.parent, vocab, merges))
    text_config = CLIPTextConfig(
        vocab_size=len(symbols),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=32,
        scaling_factor=0.5,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
        norm_num_groups=4,
    )
    # Random weights hardly look at the prompt and make everything gray: scale both up.
    with torch.no_grad():
        vae.decoder.conv_out.weight *= 3
        vae.quant_conv.bias[4:] = -2.0
        for name, parameter in unet.named_parameters():
            if "attn2" in name and name.endswith("weight"):
                parameter *= 4
    scheduler = DPMSolverMultistepScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    )
    pipe = StableDiffusionPipeline(
        vae,
        CLIPTextModel(text_config),
        tokenizer,
        unet,
        scheduler,
        None,
        None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory) -> Path:
    """A saved CLIP of random weights for 32 px images. Its scores differ widely between images and
    between prompts.
    """
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    from diffmix.nano.tokenizer import write_tokenizer

    folder = tmp_path_factory.mktemp("clip") / "tiny"
    tokenizer = write_tokenizer(
        ["a", "photo", "with", "without", "on", "it", "thing", "animal"], folder, 77
    )
    layers = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = {**layers, **special, "vocab_size": len(tokenizer), "max_position_embeddings": 77}
    torch.manual_seed(0)
    vision = {**layers, "image_size": 32, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    # A random vision tower gives all images nearly one vector: take out what they have in common.
    with torch.no_grad():
        colors = torch.randn(64, 3, 1, 1) + torch.randn(64, 3, 32, 32)
        model.vision_model.post_layernorm.bias -= model.vision_model(
            pixel_values=colors
        ).pooler_output.mean(dim=0)
    model.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPProcessor(
        CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size), tokenizer
    ).save_pretrained(folder)
    return folder


def _tokenizer_folder(folder: Path, vocab: Path, merges: Path) -> Path:
    special = {
        "unk_token": "<|endoftext|>",
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps(special | {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77})
    )
    assert vocab.parent == merges.parent == folder
    return folder


@pytest.fixture(scope="session")
def tiny_real(tmp_path_factory):
    """A `RealSet` of 12 images in 4 classes, most of 32 px; number 5 is 48 x 40."""
    from PIL import Image

    from diffmix.datasets.real import Example, RealSet

    rng = np.random.default_rng(0)
    examples = []
    for i in range(12):
        size = (48, 40) if i == 5 else (32, 32)
        small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        file = io.BytesIO()
        small.resize(size, Image.Resampling.BICUBIC).save(file, "PNG")
        examples.append(Example(f"image/{i}.png", file.getvalue(), i % 4))
    return RealSet.write(
        str(tmp_path_factory.mktemp("real") / "train.arrow"), examples, CLASS_NAMES, "animal"
    )


@pytest.fixture
def tiny_model(tiny_base):
    from diffmix.config import ModelConfig

    return ModelConfig(base=str(tiny_base), precision="fp32")


THIRTY_NAMES = [
    "Rotkehlchen",
    "Blaumeise (männlich)",
    "Großer Würger",
    "翠鸟",
    "红嘴蓝鹊",
    "black footed albatross",
    "001.Laysan_Albatross",
    "Audi A4 2∕3-door",  # a slash's substitute, as a file name has it
    "C-130 ∕ Hercules",
    "ñandú",
    "Éider à duvet",
    "o'hara's bird",
    *(f"species {i:02d} é" for i in range(18)),
]


def _write_images(folder: Path, class_names: list[str], per_class: int, side: int = 24) -> Path:
    """A folder per class. Each class has its own color, so that a classifier can learn it."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for number, name in enumerate(class_names):
        (folder / name).mkdir(parents=True)
        color = np.array([(number * 53) % 256, (number * 97) % 256, (number * 151) % 256])
        for index in range(per_class):
            pixels = np.clip(color + rng.normal(0, 20, (side, side, 3)), 0, 255).astype(np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            (folder / name / f"{index}.png").write_bytes(file.getvalue())
    return folder


@pytest.fixture(scope="session")
def write_images():
    """`write_images(folder, class_names, per_class)` writes an image folder. Gives its path."""
    return _write_images


@pytest.fixture(scope="session")
def thirty_names() -> list[str]:
    """Class names as people have them: spaces, substitutes for a slash, umlauts, Chinese."""
    return THIRTY_NAMES


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """4 classes of 8 images."""
    return _write_images(
        tmp_path_factory.mktemp("photos") / "small", ["red one", "green", "blau", "黄"], 8
    )


@pytest.fixture(scope="session")
def small_config(tiny_base, photos):
    """`small_config(out, **{"mix.count": 3})`: a job of seconds, with some options changed."""
    from diffmix.config import (
        Config,
        DataConfig,
        MixConfig,
        ModelConfig,
        PersonalizeConfig,
        RunConfig,
        TrainConfig,
        replace,
    )

    def make(out: Path, **changes) -> Config:
        config = Config(
            out=str(out),
            data=DataConfig(train=str(photos), superclass="thing", val_fraction=0.2),
            model=ModelConfig(base=str(tiny_base)),
            personalize=PersonalizeConfig(steps=6, batch_size=2, lora_rank=2, checkpoint_every=2),
            mix=MixConfig(
                count=40,
                batch=4,
                num_inference_steps=4,
                synthetic_p=0.3,
                strength=(0.5, 0.75),
                strategy="real-mix",
            ),
            train=TrainConfig(
                model_name="resnet10t",
                pretrained=False,
                resolution=24,
                resize=24,
                crop_padding=2,
                epochs=4,
                batch_size=8,
                lr=0.02,
                eval_every=2,
                loader_workers=0,
            ),
            run=RunConfig(seed=3),
        )
        return replace(config, **changes)

    return make


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark tests that use Ray, and run them last: first those that share a cluster, then those that
    start their own.
    """

    def kind(item: pytest.Item) -> int:
        shared = "cluster" in item.fixturenames
        if shared or "own_clusters" in item.fixturenames:
            item.add_marker("cluster")
        return 1 if shared else 2 * (item.get_closest_marker("cluster") is not None)

    items.sort(key=kind)


@pytest.fixture(autouse=True)
def _ray_only_where_it_is_said(request, monkeypatch):
    """A test without the mark `cluster`, which `make test-fast` runs, must not start Ray."""
    if find_spec("ray") and not request.node.get_closest_marker("cluster"):

        def refuse(*_, **__):
            pytest.fail("This test starts Ray: use the fixture `cluster`, or mark it `cluster`.")

        monkeypatch.setattr("ray.init", refuse)


@pytest.fixture(scope="session")
def ray_python(tmp_path_factory):
    """`with ray_python():` around the start of a cluster makes its workers forks
    (`tests/forked_worker.py`). `ray_python.path` is the program that starts them.
    """
    python = RayPython(tmp_path_factory.mktemp("workers") / "server.log")
    yield python
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()
    python.close()


class RayPython:
    """Owns the server of `tests/forked_worker.py`. It needs Linux, and CUDA allows no forks;
    elsewhere workers start in the usual way.
    """

    def __init__(self, log: Path):
        import torch

        self.path = sys.executable
        self._log = log
        self._server: subprocess.Popen | None = None
        if sys.platform != "linux" or torch.cuda.is_available():
            return
        self._folder = Path(tempfile.mkdtemp(prefix="dm"))  # a socket's path may have 107 bytes
        script, address = Path(__file__).with_name("forked_worker.py"), self._folder / "workers"
        with socket.socket(socket.AF_UNIX) as listener, log.open("wb") as file:
            listener.bind(str(address))
            listener.listen(128)
            self._server = subprocess.Popen(
                [sys.executable, str(script)], stdin=listener, stderr=file
            )
        command = shlex.join([sys.executable, "-IS", str(script), str(address)])
        python = self._folder / "python"
        python.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        python.chmod(0o755)
        self.path = str(python)

    @contextlib.contextmanager
    def __call__(self):
        # Ray has a setting for this (`py_executable`), which costs each worker half a second.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "executable", self.path)
            yield

    def close(self) -> None:
        if self._server is not None:
            assert self._server.poll() is None, self._log.read_text()
            self._server.kill()
            self._server.wait()
            shutil.rmtree(self._folder)


@pytest.fixture(scope="session")
def bucket_settings() -> dict[str, str]:
    """Environment variables with the address and keys of `tests/e2e/test_object_store.py`'s server.
    The shared cluster's workers have them from the start.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{found.getsockname()[1]}"
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


class BucketServer:
    """Owns an S3 server on this machine. `log` has what it was asked for: method, path without its
    query, and range of bytes.
    """

    def __init__(self, port: int):
        import logging

        from moto.moto_server import threaded_moto_server as moto

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        log = self.log = []

        class Handler(moto.MotoRequestHandler):
            def log_request(self, code="-", size="-"):
                path = self.path.partition("?")[0]
                log.append((self.command, path, self.headers.get("Range", "")))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(moto, "MotoRequestHandler", Handler)
            self._server = moto.ThreadedMotoServer("127.0.0.1", port, verbose=False)
            self._server.start()

    def bytes_of(self, path: str) -> list[int]:
        """Size of each range of bytes that was read of an object (its path begins with a /)."""
        ranges = [text for method, at, text in self.log if (method, at) == ("GET", path)]
        found = []
        for text in ranges:
            first, last = text.removeprefix("bytes=").split("-")
            found.append(int(last) - int(first) + 1)
        return found

    def close(self) -> None:
        self._server.stop()


@pytest.fixture(scope="session")
def _bucket_server(bucket_settings):
    port = int(bucket_settings["AWS_ENDPOINT_URL"].rpartition(":")[2])
    server = BucketServer(port)
    yield server
    server.close()


@pytest.fixture
def bucket_server(_bucket_server, bucket_settings, monkeypatch):
    """A running S3 server with the empty log of this test and the bucket `mixes`. This process, its
    children and the shared cluster's workers know its address and keys.
    """
    import boto3

    for name, value in bucket_settings.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    if not client.list_buckets()["Buckets"]:
        client.create_bucket(Bucket="mixes")
    _bucket_server.log.clear()
    return _bucket_server


@pytest.fixture(scope="session")
def start_cluster(ray_python, bucket_settings):
    """`start_cluster()` starts the shared cluster if it does not run: 4 logical GPUs, 8 CPUs."""

    def start() -> None:
        import ray

        if ray.is_initialized():
            return
        with pytest.MonkeyPatch.context() as patch, ray_python():
            for name, value in bucket_settings.items():
                patch.setenv(name, value)
            ray.init(
                address="local",
                _system_config={"prestart_worker_first_driver": False},
                num_gpus=4,
                num_cpus=8,
                include_dashboard=False,
                object_store_memory=300_000_000,
                namespace="diffmix",
                log_to_driver=False,
            )

    return start


@pytest.fixture(scope="module")
def cluster(start_cluster) -> None:
    """The shared cluster. A test must leave no actor on its GPUs."""
    start_cluster()


@pytest.fixture(scope="module")
def own_clusters(ray_python):
    """For a module that starts clusters in this process: stops the shared one first, and the
    module's afterwards. `with own_clusters():` around their start makes workers forks.
    """
    import ray

    ray.shutdown()
    yield ray_python
    ray.shutdown()


@pytest.fixture(autouse=True)
def _gpus_are_free_again(request):
    """A test that leaves a mixer or a train worker behind fails itself, not the next one."""
    yield
    if "cluster" in request.fixturenames:
        import ray

        end = time.monotonic() + 60
        while ray.available_resources().get("GPU", 0) < ray.cluster_resources()["GPU"]:
            assert time.monotonic() < end, "an actor of this test still holds a GPU"
            gc.collect()  # the frames of a caught error may hold it
            Event().wait(0.1)  # a cluster sends no event


@pytest.fixture
def object_store(monkeypatch):
    """s3:// URIs lead to an object store in memory: no folders, no appending, no renaming."""
    import pyarrow.fs as pafs
    from fsspec.implementations.memory import MemoryFileSystem

    from diffmix import storage
    from diffmix.files import new_file

    class ObjectStore(MemoryFileSystem):
        def _open(self, path, mode="rb", **options):
            """fsspec gives all readers one file object with one position. Give each its own."""
            file = super()._open(path, mode, **options)
            return io.BytesIO(file.getvalue()) if mode == "rb" else file

    memory = pafs.PyFileSystem(pafs.FSSpecHandler(ObjectStore(skip_instance_cache=True)))
    real = storage.filesystem
    monkeypatch.setattr(
        storage,
        "filesystem",
        lambda uri: (memory, uri.removeprefix("s3:/")) if uri.startswith("s3://") else real(uri),
    )
    monkeypatch.setattr(new_file, "_s3_client", lambda uri: None)  # it has no address to write to
    ObjectStore.store.clear()
    return memory
