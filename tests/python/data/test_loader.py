# SPDX-License-Identifier: Apache-2.0
"""Batches: determinism, grouping, resuming, unreadable images."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest
import torch

from instseg import InputConfig
from instseg.data import Augmentation, CocoDataset, batch_plan, training_batches

LANDSCAPE = [True] * 7 + [False] * 5


def take(count, **options):
    values = {"landscape": LANDSCAPE, "batch_size": 3, "seed": 5, **options}
    return list(islice(batch_plan(**values), count))


def test_plan_depends_on_seed_and_iteration_only():
    full = take(40)
    assert [iteration for iteration, _ in full] == list(range(40))
    assert take(40) == full
    assert take(15, start=25) == full[25:]
    assert take(40, seed=6) != full


def test_plan_groups_by_orientation_and_covers_everything():
    batches = [indices for _, indices in take(80)]
    assert all(len({LANDSCAPE[i] for i in indices}) == 1 for indices in batches)
    assert all(len(indices) == 3 for indices in batches)
    counts = Counter(i for indices in batches for i in indices)
    # 240 draws from 12 images: every image about 20 times, whatever still waits in a group.
    assert set(counts) == set(range(12)) and max(counts.values()) - min(counts.values()) <= 2


def test_plan_works_with_fewer_images_than_the_batch():
    assert [sorted(indices) for _, indices in take(2, landscape=[True], batch_size=4)] == [[0] * 4] * 2


def test_plan_without_images():
    with pytest.raises(ValueError, match="no images to train on"):
        next(batch_plan([], 2, 0))


def batches(dataset, start=0, stop=8, workers=0, seed=1):
    augmentation = Augmentation(InputConfig(), (32, 40, 48), 100)
    return list(
        training_batches(
            dataset, augmentation, batch_size=2, seed=seed, start=start, stop=stop, workers=workers
        )
    )


def same(left, right):
    return (
        left.iteration == right.iteration
        and left.image_ids == right.image_ids
        and all(map(torch.equal, left.images, right.images))
        and all(
            torch.equal(a[key], b[key]) for a, b in zip(left.targets, right.targets, strict=True) for key in a
        )
    )


def test_batches_do_not_depend_on_start_or_workers(make_dataset):
    dataset = CocoDataset(*make_dataset())
    full = batches(dataset)
    assert [batch.iteration for batch in full] == list(range(8))
    assert full[0].images[0].dtype == torch.uint8 and full[0].images[0].shape[2] == 3
    assert len({tuple(image.shape) for batch in full for image in batch.images}) > 2
    for other in (batches(dataset, start=3), batches(dataset, start=3, workers=2)):
        assert len(other) == 5 and all(map(same, other, full[3:]))
    assert not all(map(same, batches(dataset, seed=2), full))


def test_batches_leave_the_generator_of_the_losses_alone(make_dataset):
    dataset = CocoDataset(*make_dataset())
    before = torch.get_rng_state()
    batches(dataset)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_unreadable_image_is_reported_and_replaced(make_dataset):
    annotations, folder = make_dataset()
    (folder / "1.png").write_bytes(b"broken")
    dataset = CocoDataset(annotations, folder)
    found = batches(dataset, stop=12)
    reported = {problem.image_id for batch in found for problem in batch.problems}
    assert reported == {11}
    assert all(11 not in batch.image_ids and len(batch.images) == 2 for batch in found)
    wide = [{image.shape[1] > image.shape[0] for image in batch.images} for batch in found]
    assert all(len(orientations) == 1 for orientations in wide)
    assert all(map(same, batches(dataset, start=5, stop=12), found[5:]))


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_readable_is_a_clear_error(make_dataset, workers):
    annotations, folder = make_dataset()
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="in a row could not be read") as caught:
        batches(CocoDataset(annotations, folder), workers=workers)
    assert "\n" not in str(caught.value)


def test_empty_dataset_is_a_clear_error(make_dataset):
    with pytest.raises(ValueError, match="no images to train on"):
        batches(CocoDataset(*make_dataset(objects=0), filter_empty=True))
