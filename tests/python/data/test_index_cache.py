# SPDX-License-Identifier: Apache-2.0
"""The indexed annotation file and its cache: same content, never trusted blindly, never in the way."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from instseg.data import CocoDataset, cache, index
from instseg.data.records import index_document, read_document

SQUARE = [10, 10, 40, 10, 40, 30, 10, 30]
TRIANGLE = [50.5, 5.0, 80.0, 40.25, 45.0, 50.0]
ROWS = [640, 640, 76 * 64]


@pytest.fixture
def files(make_dataset):
    from pycocotools import mask as coco

    text = coco.encode(np.asfortranarray(np.eye(64, 96, dtype=np.uint8)))["counts"].decode()

    def edit(document):
        base = {"category_id": 3, "bbox": [5, 5, 80, 50]}
        document["images"].append({"id": -3, "file_name": "grün\ud800.png", "width": 9, "height": 7})
        document["annotations"] = [
            {"id": 5, "image_id": 10, **base, "segmentation": [SQUARE, TRIANGLE], "area": 3.5},
            {"id": 1, "image_id": 12, **base, "segmentation": [[1, 2]]},
            {
                "id": 2,
                "image_id": 10,
                **base,
                "segmentation": {"size": [64, 96], "counts": ROWS},
                "iscrowd": 1,
            },
            {"id": 9, "image_id": 10, **base, "segmentation": {"size": [64, 96], "counts": text}},
            {"id": 7, "image_id": 13, **base, "segmentation": [[200, 1, 290, 1, 250, 10]]},
            {"id": 8, "image_id": 11, "category_id": 99, "bbox": [0, 0, 1, 1]},
        ]

    return make_dataset(edit=edit)


def content(data: CocoDataset):
    return (
        list(data.images),
        [data.annotations(m.id) for m in data.images],
        data.ground_truth(),
        data.problems,
        data.category_ids,
        data.class_names,
        data.num_objects,
        data.has_masks,
    )


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*"))


@pytest.mark.parametrize("masks", [False, True])
def test_arrays_hold_what_the_records_hold(files, masks):
    records = index_document(read_document(files[0]), masks)
    data = CocoDataset(*files, masks=masks, cache=False)
    assert list(data.images) == records.images and data.problems == records.problems
    assert data.images[-1].file_name == "grün\ud800.png"
    for image in records.images:
        expected = records.annotations.get(image.id, [])
        found = data.annotations(image.id)
        assert found == expected
        for ours, theirs in zip(found, expected, strict=True):
            assert (ours.segmentation is None) == (theirs.segmentation is None)
            if ours.segmentation is not None:
                assert ours.segmentation.to_coco() == theirs.segmentation.to_coco()
    assert data.annotations(4711) == [] == data.annotations(-4)
    assert [m.id for m in data.images[1:3]] == [11, 12]


@pytest.mark.parametrize(
    "options", [{}, {"masks": True}, {"masks": True, "semantic": True, "filter_empty": True}]
)
def test_a_cached_dataset_is_the_same(files, tmp_path, options):
    folder = tmp_path / "cache"
    parsed = CocoDataset(*files, cache=False, **options)
    assert not folder.exists()
    first = CocoDataset(*files, cache=folder, **options)
    (entry,) = entries(folder)
    stamp = entry.stat().st_mtime_ns, entry.stat().st_ino
    second = CocoDataset(*files, cache=str(folder), **options)
    assert content(first) == content(parsed) == content(second)
    assert (entry.stat().st_mtime_ns, entry.stat().st_ino) == stamp and entries(folder) == [entry]
    assert content(pickle.loads(pickle.dumps(second))) == content(parsed)
    for i in range(len(parsed)):
        ours, theirs = second.targets(i), parsed.targets(i)
        assert ours.keys() == theirs.keys() and ours["boxes"].equal(theirs["boxes"])
        assert ours.get("masks") == theirs.get("masks")


def test_the_parser_is_not_called_for_a_cached_file(files, tmp_path, monkeypatch):
    expected = content(CocoDataset(*files, masks=True, cache=tmp_path / "cache"))

    def fail(*_):
        raise AssertionError("parsed")

    monkeypatch.setattr(cache, "read_document", fail)
    data = CocoDataset(*files, masks=True, cache=tmp_path / "cache")
    assert content(data) == expected
    assert not data._index.arrays["points"].flags.writeable  # mapped, hence shared by processes
    with pytest.raises(AssertionError, match="parsed"):  # boxes alone are another index
        CocoDataset(*files, cache=tmp_path / "cache")


def test_a_changed_file_is_parsed_again(files, tmp_path):
    folder = tmp_path / "cache"
    CocoDataset(*files, cache=folder)
    document = json.loads(files[0].read_text())
    state = files[0].stat()
    document["annotations"][0]["area"] = 4.5
    files[0].write_text(json.dumps(document))
    assert files[0].stat().st_size == state.st_size
    os.utime(files[0], ns=(state.st_atime_ns, state.st_mtime_ns))  # neither size nor time tell
    assert CocoDataset(*files, cache=folder).annotations(10)[0].area == 4.5
    os.utime(files[0], ns=(1, 1))
    before = entries(folder)[0].stat().st_ino
    CocoDataset(*files, cache=folder)
    assert len(entries(folder)) == 1 and entries(folder)[0].stat().st_ino != before


def test_damaged_entries_are_ignored_and_replaced(files, tmp_path):
    folder = tmp_path / "cache"
    expected = content(CocoDataset(*files, masks=True, cache=folder))
    (entry,) = entries(folder)
    sound = entry.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [b"", b"x", sound[:20], sound[:200], sound[:-1], sound + b"\0", b"\0" * len(sound)]
    for _ in range(60):
        position = int(rng.integers(len(sound)))
        damaged.append(sound[:position] + bytes([sound[position] ^ 0x41]) + sound[position + 1 :])
    for content_ in damaged:
        entry.unlink()
        entry.write_bytes(content_)
        assert content(CocoDataset(*files, masks=True, cache=folder)) == expected
        assert entry.read_bytes() == sound


def test_entries_of_other_versions_are_ignored(files, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    CocoDataset(*files, cache=folder)
    old = entries(folder)[0].read_bytes()
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
    CocoDataset(*files, cache=folder)
    assert entries(folder)[0].read_bytes() != old


def test_a_folder_that_cannot_be_written_is_no_error(files, tmp_path, monkeypatch):
    expected = content(CocoDataset(*files, cache=False))
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert content(CocoDataset(*files, cache=blocked / "cache")) == expected

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.os, "replace", full)
    assert content(CocoDataset(*files, cache=tmp_path / "cache")) == expected
    assert entries(tmp_path / "cache") == []  # nothing half written stays


def test_the_user_s_folder_and_small_files(files, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert cache.cache_folder(True) == tmp_path / "home" / "instseg" and cache.cache_folder(False) is None
    CocoDataset(*files)
    assert not (tmp_path / "home").exists()
    monkeypatch.setattr(cache, "MIN_SIZE", 100)
    CocoDataset(*files)
    assert len(entries(tmp_path / "home" / "instseg")) == 1
    CocoDataset(*files, cache=False)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert cache.cache_folder(True) == tmp_path / "me" / ".cache" / "instseg"


def test_errors_of_the_file_stay(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        CocoDataset(tmp_path / "a.json", tmp_path, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_an_empty_file_of_annotations(tmp_path):
    (tmp_path / "a.json").write_text('{"images": [], "annotations": [], "categories": []}')
    for _ in range(2):
        data = CocoDataset(tmp_path / "a.json", tmp_path, masks=True, cache=tmp_path / "cache")
        assert len(data) == 0 == data.num_objects and list(data.images) == [] and not data.has_masks
        assert data.annotations(1) == []
    assert index.pack_index(index_document(read_document(tmp_path / "a.json"))).arrays["box"].shape == (0, 4)
