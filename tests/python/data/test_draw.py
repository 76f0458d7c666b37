# SPDX-License-Identifier: Apache-2.0
"""Pictures of a dataset: what is drawn where."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from instseg.data import CocoDataset, contact_sheet, dataset_charts, draw_annotations
from instseg.data.draw import TILE, bar_chart, histogram


@pytest.fixture
def files(make_dataset):
    def edit(document):
        def row(own, category, box, **more):
            return {"id": own, "image_id": 10, "category_id": category, "bbox": box, **more}

        square = [[20.0, 24, 60, 24, 60, 44, 20, 44]]
        top = [64 * 70, *([24, 40] * 24), 24, 104]  # rows 0..23 of columns 70..94
        document["annotations"] = [
            row(1, 3, [20, 24, 40, 20], segmentation=square, area=800),
            row(2, 7, [70, 0, 25, 24], segmentation={"size": [64, 96], "counts": top}, iscrowd=1),
            row(3, 7, [2, 50, 10, 10]),
        ]

    made = make_dataset(edit=edit)
    Image.new("RGB", (96, 64), (100, 100, 100)).save(made[1] / "0.png")
    return made


def test_masks_boxes_and_crowds(files):
    data = CocoDataset(*files, masks=True)
    assert [p.kind for p in data.problems] == ["mask_missing"]
    grey = np.array([100, 100, 100])
    drawn = draw_annotations(data, 0)
    assert drawn.shape == (64, 96, 3) and drawn.dtype == np.uint8
    changed = (drawn != grey).any(-1)
    assert changed[26:43, 39:59].all()  # the mask
    assert not changed[50:64, 20:60].any() and not changed[26:64, 66:].any()
    white = (drawn == 255).all(-1)
    assert 0.1 < white[14:24, 72:94].mean() < 0.5  # stripes of the crowd
    assert changed[58, 2:12].all() or changed[59, 2:12].all()  # the frame of a box without mask


def test_without_masks_boxes_are_drawn(files):
    grey = np.array([100, 100, 100])
    changed = (draw_annotations(CocoDataset(*files), 0) != grey).any(-1)
    assert changed[43, 20:60].all() and not changed[26:42, 39:58].any()
    assert changed[14:24, 72:94].any() and not changed[14:24, 72:94].all()


def test_drawn_at_another_size(files):
    data = CocoDataset(*files, masks=True)
    drawn = draw_annotations(data, 0, (128, 192))
    assert drawn.shape == (128, 192, 3)
    changed = (drawn != np.array([100, 100, 100])).any(-1)
    assert changed[70:86, 50:116].all() and not changed[91:128, 40:120].any()


def test_many_objects_are_drawn_in_parts(files, monkeypatch):
    from instseg.data import draw

    whole = draw_annotations(CocoDataset(*files, masks=True), 0)
    monkeypatch.setattr(draw, "_TOGETHER", 1)
    assert np.array_equal(draw_annotations(CocoDataset(*files, masks=True), 0), whole)


def test_sheet_with_a_broken_image(files):
    (files[1] / "1.png").write_bytes(b"no image")
    data = CocoDataset(*files, masks=True)
    sheet = contact_sheet(data, [0, 1, 2], columns=2)
    assert sheet.shape[0] > 2 * TILE[0] and sheet.shape[1] > 2 * TILE[1]
    assert (sheet == [200, 0, 0]).all(-1).any()  # why it is not there
    assert contact_sheet(data, [2], columns=4).shape[1] < 2 * TILE[1]


def test_charts(files):
    charts = dataset_charts(CocoDataset(*files, masks=True))
    assert list(charts) == ["objects_per_image", "box_sizes", "aspect_ratios", "classes"]
    assert all(chart.dtype == np.uint8 and chart.shape[1:] == (640, 3) for chart in charts.values())


def bars(chart):
    """Heights of the bars in pixels, from left to right."""
    blue = (chart == [70, 120, 180]).all(-1)
    heights = blue.sum(0)
    starts = np.flatnonzero((heights > 0) & (np.roll(heights, 1) == 0))
    return heights[starts].tolist()


def test_bars_are_in_proportion():
    low, high = bars(bar_chart("t", ["a", "b"], [10, 20]))
    assert high == pytest.approx(2 * low, abs=2)
    assert bars(bar_chart("nothing", [], [])) == []


def test_histograms_count_every_value():
    found = bars(histogram("t", np.array([1, 1, 1, 3])))
    assert len(found) == 2 and found[0] == pytest.approx(3 * found[1], abs=3)
    assert len(bars(histogram("t", np.geomspace(0.013, 1234.5, 24), logarithmic=True))) == 24
    assert bars(histogram("t", np.array([]))) == []
    assert len(bars(histogram("t", np.array([5.5])))) == 1
    assert len(bars(histogram("t", np.arange(100)))) == 20  # whole numbers: five in each
