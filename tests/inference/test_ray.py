"""Ray: its actors write the rows of one process, whoever of them is lost; and own pipelines."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import beit
from beit.cli import main
from beit.config.bulk import EmbedConfig
from beit.data.folders import open_every_image
from beit.inference.bulk import Job, write_folder
from beit.inference.images import Place, Places
from beit.weights.load import open_artifact

ray = pytest.importorskip("ray", reason="Ray is not installed: the extra `ray`")
pytestmark = pytest.mark.filterwarnings("ignore")  # of Ray and of what it imports
FREE = 12
"""Images that are read at once; the others are, once the gate is open."""


@pytest.fixture
def cluster(monkeypatch, environment):
    """Two machines of one core each."""
    from ray import cloudpickle
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    started = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": 10**8},
    )
    try:
        yield started
    finally:
        ray.shutdown()
        started.shutdown()


class Gated:
    """The images of a folder, of which the later ones come when a file is there."""

    classes, targets = (), None

    def __init__(self, folder: str, gate: Path) -> None:
        self._source, self._gate = open_every_image(folder), gate

    def __len__(self) -> int:
        return len(self._source)

    def key(self, index: int) -> str:
        return self._source.key(index)

    def read(self, index: int):
        while index >= FREE and not self._gate.exists():
            time.sleep(0.02)
        return self._source.read(index)

    def fingerprint(self) -> str:
        return self._source.fingerprint()


def until(condition):
    """Wait for something that other processes do."""
    end = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def actors() -> list[int]:
    """Processes of the pool that this test's nodes started."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            name = (place / "cmdline").read_bytes()
        except OSError:
            continue
        if name.startswith(b"ray::") and b"_PartWriter" in name:
            found.append(int(place.name))
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_actor_and_a_machine_are_lost(trained, class_folders, cluster, tmp_path):
    from beit.ray import write_folder as write_by_ray

    second = cluster.add_node(num_cpus=1, object_store_memory=10**8)
    gate, out = tmp_path / "gate", tmp_path / "by-ray"

    def job(folder: Path, **options) -> Job:
        places = Places([Place("images", Gated(str(class_folders), gate))])
        config = EmbedConfig(out=str(folder), part_rows=2, batch=2, device="cpu", **options)
        return Job(open_artifact(trained.pretrained), places, config)

    lost: list[BaseException] = []

    def lose():
        try:
            until(lambda: len(list(out.glob("part-*.parquet"))) == FREE // 2)
            until(lambda: len(actors()) == 2)
            victim = actors()[0]
            os.kill(victim, signal.SIGKILL)
            until(lambda: victim not in actors() and len(actors()) == 2)
            cluster.remove_node(second, allow_graceful=False)
            until(lambda: len(actors()) == 1)
        except BaseException as error:
            lost.append(error)
        finally:
            gate.touch()

    ray.init(address=cluster.address, log_to_driver=False)
    thread = threading.Thread(target=lose)
    thread.start()
    told = write_by_ray(job(out, engine="ray"))
    thread.join()
    assert not lost, lost
    assert "features of 36 images, in 18 files" in told.lines[0]

    write_folder(job(tmp_path / "alone", workers=0))
    ours, theirs = (
        pq.read_table(folder).sort_by("position").to_pydict()
        for folder in (tmp_path / "alone", out)
    )
    assert theirs["position"] == list(range(36))
    assert theirs["key"] == ours["key"]
    assert np.allclose(theirs["features"], ours["features"], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_pipeline_of_ones_own(trained, class_folders, cluster, tmp_path, monkeypatch):
    """That of the page on many images, on its own folder."""
    page = (Path(__file__).parents[2] / "docs" / "bulk.md").read_text()
    snippet = re.findall(r"```python\n(.*?)```", page, re.S)[1]
    shutil.copytree(class_folders / "disc", tmp_path / "images")
    (tmp_path / "images" / "broken.png").write_bytes(b"rubbish")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "pretrain").symlink_to(trained.pretrained)
    monkeypatch.chdir(tmp_path)
    cluster.add_node(num_cpus=2, object_store_memory=10**8)  # those who read need one, too
    ray.init(address=cluster.address, log_to_driver=False)
    exec(snippet, {})  # noqa: S102
    rows = pq.read_table(tmp_path / "by-ray").to_pylist()
    table = {Path(row["path"]).name: row for row in rows}
    assert len(rows) == len(table) == 13
    assert table.pop("broken.png")["error"]
    names = sorted(table)
    expected = beit.load(trained.pretrained).embed([f"images/{name}" for name in names]).numpy()
    features = [table[name]["features"] for name in names]
    assert np.allclose(features, expected, rtol=1e-5, atol=1e-6)


def test_batches_of_any_kind(trained, class_folders):
    """The classes are called as Ray calls them, without a cluster."""
    import beit.ray

    file = class_folders / "disc" / "00.png"
    predictor = beit.load(trained.classifier)
    names = [label.name for label in predictor.predict(file, top=2)]
    answer = beit.ray.Predictor(trained.classifier, top=2, device="cpu")
    from PIL import Image

    cells = {
        "path": np.array([str(file), "nowhere.png"], dtype=object),
        "bytes": np.array([file.read_bytes(), b"rubbish"], dtype=object),
        "image": np.array([np.asarray(Image.open(file))] * 2),
    }
    for column, values in cells.items():
        found = answer({"id": np.arange(2), column: values})
        assert found["id"].tolist() == [0, 1]
        assert found["classes"][0].tolist() == names
        assert found["error"][0] == ""
        assert bool(found["error"][1]) == (column != "image")
        assert (column in found) == (column == "path")
    nothing = answer({"bytes": np.array([b"rubbish"], dtype=object)})
    assert nothing["error"][0]
    with pytest.raises(beit.errors.ConfigError, match="has the columns other"):
        answer({"other": np.arange(2)})


def test_a_cluster_that_is_not_there(trained, class_folders, tmp_path, monkeypatch, capsys):
    def unreachable(**options):
        raise ConnectionError("nobody listens")

    monkeypatch.setattr(ray, "init", unreachable)
    words = ["embed", str(trained.pretrained), "--data", str(class_folders), "--engine", "ray"]
    assert main([*words, "--ray-address", "x:1", "--out", str(tmp_path / "out")]) == 6
    assert "Ray at x:1 does not answer: nobody listens" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
