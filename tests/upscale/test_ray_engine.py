"""The Ray engine on a cluster of two nodes of this machine; without the extra `ray` these tests skip."""

import logging
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mrda.networks import MRDAStudent
from mrda.upscale.batch import upscale_photos
from mrda.upscale.jobs import plan
from mrda.upscale.upscaler import Upscaler

ray = pytest.importorskip("ray", reason="needs ray: pip install './mrda[ray]'")
pytest.importorskip("pyarrow", reason="needs pyarrow: pip install './mrda[ray]'")

import ray_workers  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

from mrda.upscale import ray_engine  # noqa: E402
from mrda.upscale.ray_engine import ClusterError, Run  # noqa: E402
from mrda.upscale.results import RECORD  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("system")]

REPOSITORY = Path(__file__).resolve().parents[2]
WRITING = {"workers": 2, "quality": 95, "lossless": None, "max_pixels": 10**6}
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one core, on whose first one this process is."""
    paths = [str(REPOSITORY), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    kept = dict(os.environ)
    os.environ.update(
        PYTHONPATH=os.pathsep.join(filter(None, paths)),
        RAY_USAGE_STATS_ENABLED="0",
        RAY_AUTH_MODE="disabled",  # otherwise a token is left in the home folder
        AWS_ACCESS_KEY_ID="testing",
        AWS_SECRET_ACCESS_KEY="testing",
        AWS_EC2_METADATA_DISABLED="true",
    )
    os.environ.pop("RAY_ADDRESS", None)
    try:
        cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        try:
            cluster.add_node(**NODE)
            ray.init(cluster.address, log_to_driver=False, logging_level=logging.ERROR)
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()
    finally:
        os.environ.clear()
        os.environ.update(kept)


@pytest.fixture
def noting(monkeypatch):
    monkeypatch.setattr(ray_engine, "Worker", ray_workers.NotingWorker)


@pytest.fixture
def upscaler():
    torch.manual_seed(0)
    return Upscaler(MRDAStudent(scale=2, num_feat=8, num_blocks=2, den_width=4), dtype=torch.float32)


def photos(folder, number, side=32):
    folder.mkdir(exist_ok=True)
    for n in range(number):
        pixels = np.random.default_rng(n).integers(0, 256, (side, side + 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{n:03}.png")
    return folder


def run_of(upscaler, folder, output, **options):
    jobs = plan([folder], output, suffix="x2", recursive=True)
    return Run(upscaler, {"tile": "auto", "dtype": torch.float32}, jobs, [str(folder)], str(output), **options)


def names(folder):
    return sorted(path.name for path in folder.rglob("*.png"))


def test_results_are_those_of_the_local_engine_and_a_second_run_does_nothing(cluster, tmp_path, upscaler):
    folder = photos(tmp_path / "in", 11)
    Image.new("LA", (5, 9), (90, 200)).save(folder / "gray.png")
    (folder / "bad.png").write_bytes(b"no photo")
    here = plan([folder], tmp_path / "here", suffix="x2", recursive=True)
    expected = list(upscale_photos(upscaler, here))
    found = list(run_of(upscaler, folder, tmp_path / "out").upscale(WRITING))
    key = lambda result: (str(result.job.source), result.state, result.reason, result.notices)  # noqa: E731
    assert sorted(map(key, found)) == sorted(map(key, expected))
    assert names(tmp_path / "out") == names(tmp_path / "here")
    for path in (tmp_path / "here").iterdir():
        with Image.open(path) as one, Image.open(tmp_path / "out" / path.name) as other:
            difference = np.abs(np.asarray(one).astype(int) - np.asarray(other))
            assert difference.max() <= 1
            assert (difference > 0).mean() < 1e-3
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.png")}
    (folder / "bad.png").unlink()
    states = Counter(result.state for result in run_of(upscaler, folder, tmp_path / "out").upscale(WRITING))
    assert states == {"skipped": 12}
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_a_photo_of_which_workers_die_fails_alone(cluster, tmp_path, upscaler, noting, caplog):
    folder = photos(tmp_path / "in", 9)
    (folder / "005.png").rename(folder / ray_workers.DEADLY)
    results = list(run_of(upscaler, folder, tmp_path / "out").upscale(WRITING, workers=1))
    failed = [result for result in results if result.state == "failed"]
    assert [Path(result.job.source).name for result in failed] == [ray_workers.DEADLY]
    assert failed[0].reason.endswith("3 workers died of it, most likely because memory ran out")
    assert Counter(result.state for result in results) == {"done": 8, "failed": 1}
    assert "a worker failed, and its photos are tried again" in caplog.text
    written = (tmp_path / "written.txt").read_text().split()
    assert sorted(written) == names(tmp_path / "out")  # each once
    assert len(written) == 8


def test_a_node_that_is_killed_loses_no_photo(cluster, tmp_path, upscaler, noting):
    folder = photos(tmp_path / "in", 24)
    (folder / "bad.png").write_bytes(b"no photo")
    doomed = cluster.add_node(**NODE)
    cluster.wait_for_nodes()
    outcomes = run_of(upscaler, folder, tmp_path / "out").upscale(WRITING, workers=3)
    results = [next(outcomes) for _ in range(3)]
    cluster.remove_node(doomed, allow_graceful=False)
    results += outcomes
    assert len({result.job.source for result in results}) == len(results) == 25
    assert Counter(result.state for result in results) == {"done": 24, "failed": 1}
    written = Counter((tmp_path / "written.txt").read_text().split())
    assert sorted(written) == names(tmp_path / "out")
    assert len(written) == 24
    assert set(written.values()) == {1}


def test_a_worker_that_cannot_start_is_told(cluster, tmp_path, upscaler):
    folder = photos(tmp_path / "in", 2)
    jobs = plan([folder], tmp_path / "out", suffix="x2")
    run = Run(upscaler, {"tile": -1}, jobs, [str(folder)], str(tmp_path / "out"))
    with pytest.raises(ClusterError, match="no worker could start: tile is -1, but must be"):
        list(run.upscale(WRITING))
    with pytest.raises(ClusterError, match="--cores is 64, but no node of the cluster has more than 1 cores"):
        list(run.upscale(WRITING, cores=64))
    with pytest.raises(ClusterError, match="--device cuda can't be used: no node"):
        list(run.upscale(WRITING, device="cuda"))


def test_a_store_is_read_and_written_and_listed(cluster, tmp_path, upscaler):
    server = pytest.importorskip("moto.server", reason="needs moto[s3] and flask: a stand-in for S3")
    boto3 = pytest.importorskip("boto3", reason="needs boto3, which moto brings")
    threaded = server.ThreadedMotoServer(port=0)
    threaded.start()
    try:
        _, port = threaded.get_host_and_port()
        client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1")
        client.create_bucket(Bucket="photos")
        folder = photos(tmp_path / "in", 5)
        (folder / "my photo %41.png").write_bytes((folder / "001.png").read_bytes())
        (folder / "bad.png").write_bytes(b"no photo")
        for path in folder.iterdir():
            client.upload_file(str(path), "photos", f"in/deep/{path.name}")
        query = f"?endpoint_override=http%3A%2F%2F127.0.0.1%3A{port}&region=us-east-1"
        places, output = [f"s3://photos/in{query}"], f"s3://photos/out{query}"

        def start(used):
            jobs = plan(places, output, suffix="x2", recursive=True)
            return Run(used, {"dtype": torch.float32}, jobs, places, output)

        results = list(start(upscaler).upscale(WRITING))
        reasons = [result.reason for result in results if result.state == "failed"]
        assert reasons == ["cannot read s3://photos/in/deep/bad.png: it is not an image of a known format"]
        keys = {entry["Key"] for entry in client.list_objects_v2(Bucket="photos", Prefix="out/")["Contents"]}
        done = {f"out/deep/{n:03}_x2.png" for n in range(5)} | {"out/deep/my photo %41_x2.png"}
        assert keys == {*done, f"out/{RECORD}"}
        addresses = {result.job.address for result in results if result.state == "done"}
        assert addresses == {f"s3://photos/{key}" for key in done}
        client.download_file("photos", "out/deep/001_x2.png", str(tmp_path / "sr.png"))
        with Image.open(tmp_path / "sr.png") as sr, Image.open(folder / "001.png") as lr:
            difference = np.abs(np.asarray(sr).astype(int) - upscaler(np.asarray(lr)))
            assert difference.max() <= 1
        client.delete_object(Bucket="photos", Key="out/deep/002_x2.png")
        states = Counter(result.state for result in start(upscaler).upscale(WRITING))
        assert states == {"skipped": 5, "done": 1, "failed": 1}
        other = Upscaler(MRDAStudent(scale=2, num_feat=8, num_blocks=1, den_width=4))
        with pytest.raises(ValueError, match=r"s3://photos/out holds results of other weights"):
            start(other)
        with pytest.raises(ValueError, match=r"cannot list s3://photos/nothing: there is no such folder or file"):
            plan([f"s3://photos/nothing{query}"], output, suffix="x2")
    finally:
        threaded.stop()
