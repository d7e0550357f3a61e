from pipeline.seen import Seen


def test_each_value_is_new_once():
    seen = Seen()
    values = [*range(-5, 0), *range(1, 5), 2**64 - 6, *(hash(f"s3://b/{n}.mp4") for n in range(50_000))]
    new = {value & (1 << 64) - 1 for value in values if seen.add(value)}
    assert new == {value & (1 << 64) - 1 for value in values}
    assert not any(seen.add(value) for value in values)


def test_values_that_fall_on_one_place_are_told_apart():
    seen = Seen()
    values = [n << 40 for n in range(1, 300)]
    assert all(seen.add(value) for value in values)
    assert not any(seen.add(value) for value in values)
