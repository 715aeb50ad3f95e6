"""What the audit counts and shows."""

from e2ed2.curation.audit import Sample
from e2ed2.curation.items import Item


def test_a_sample_holds_items_of_equal_ids_in_whatever_order_they_come():
    items = [Item(number, f"{number % 3:03d}", "here") for number in range(12)]  # keys that start again in each shard
    samples = [Sample(5), Sample(5)]
    for one, other in zip(items, reversed(items), strict=True):
        samples[0].add(one)
        samples[1].add(other)
    first, second = ([item.number for item in sample.items()] for sample in samples)
    assert first == second and len({*first}) == 5 and first[:4] == [*range(first[0], 12, 3)]
