"""Which rows a batch holds: shuffled, in buckets, by weights."""

import torch

from e2ed2.data.order import ShuffledOrder, batch_rows, bucket_batches

NUM_ITEMS = 23


def test_every_epoch_holds_every_row_once():
    rows = torch.cat([batch_rows(3, NUM_ITEMS, position, 4) for position in range(NUM_ITEMS)])  # 4 epochs
    epochs = rows.view(4, NUM_ITEMS)
    assert all(sorted(epoch.tolist()) == list(range(NUM_ITEMS)) for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 4


def test_the_ranks_of_a_step_read_disjoint_rows_of_what_one_process_would_read():
    size, num_processes = 3, 4
    for step in range(3):
        parts = [batch_rows(0, 100, step * num_processes + rank, size) for rank in range(num_processes)]
        assert len(set(torch.cat(parts).tolist())) == size * num_processes
        assert torch.equal(torch.cat(parts), batch_rows(0, 100, step, size * num_processes))


def test_a_batch_larger_than_the_data_runs_through_them_again():
    rows = batch_rows(0, 5, 1, 12)
    assert len(rows) == 12 and set(rows.tolist()) == set(range(5))


def test_another_seed_gives_another_order():
    assert not torch.equal(batch_rows(0, 100, 0, 50), batch_rows(1, 100, 0, 50))




def test_an_order_is_a_function_of_the_position_alone():
    buckets = torch.tensor([0, 1] * 11 + [2])
    for options in ({}, {"buckets": buckets}, {"parts": [(20, 1.0), (3, 2.0)]}):
        forwards, again = (ShuffledOrder(5, NUM_ITEMS, 4, **options) for _ in range(2))
        rows = [forwards.rows(position) for position in range(30)]
        assert all(torch.equal(again.rows(position), rows[position]) for position in (29, 3, 17, 0))
        assert not all(torch.equal(ShuffledOrder(6, NUM_ITEMS, 4, **options).rows(i), rows[i]) for i in range(4))


def test_every_batch_is_of_one_bucket_and_an_epoch_holds_everything():
    buckets = torch.tensor([0] * 10 + [1] * 9 + [2])
    batches = bucket_batches(torch.randperm(20), buckets, 4, seed=1)  # buckets of the rows as they come
    assert batches.shape == (3 + 3 + 1, 4)
    order = ShuffledOrder(0, 20, 4, buckets=buckets)
    epoch = torch.stack([order.rows(position) for position in range(7)])
    assert all(len(buckets[rows].unique()) == 1 for rows in epoch)
    assert set(epoch.flatten().tolist()) == set(range(20))
    following = torch.stack([order.rows(position) for position in range(7, 14)])
    assert set(following.flatten().tolist()) == set(range(20)) and not torch.equal(epoch, following)


def test_parts_are_drawn_by_weight_and_each_item_of_a_part_as_often():
    order = ShuffledOrder(0, 40, 8, parts=[(30, 1.0), (10, 3.0)])
    rows = torch.cat([order.rows(position) for position in range(30)])  # six epochs of 40 draws
    counts = torch.bincount(rows, minlength=40)
    assert counts[:30].sum() == 60 and counts[30:].sum() == 180
    assert set(counts[:30].tolist()) == {2} and set(counts[30:].tolist()) == {18}


def test_random_rows_are_of_one_bucket():
    buckets = torch.tensor([0] * 30 + [1] * 3)
    order, generator = ShuffledOrder(0, 33, 5, buckets=buckets), torch.Generator().manual_seed(0)
    drawn = [buckets[order.random_rows(generator)] for _ in range(100)]
    assert all(len(bucket.unique()) == 1 for bucket in drawn)
    assert {int(bucket[0]) for bucket in drawn} == {0, 1}
