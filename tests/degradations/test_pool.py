import pytest
import torch

from mrda.degradations import Degraded, ShufflePool, bicubic, quantize, sharpen


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(number, size=2, sharp=False, side=8):
    """A batch whose pairs can be told apart by their number."""
    hr = quantize(torch.rand(size, 3, 4 * side, 4 * side, generator=seeded(number)))
    lr = quantize(torch.rand(size, 3, side, side, generator=seeded(100 + number)))
    for index in range(size):
        hr[index, :, 0, 0] = lr[index, :, 0, 0] = (number * size + index) / 255
    return Degraded(lr, quantize(bicubic(lr, 4)), None, None, hr, sharpen(hr) if sharp else None)


def numbers(pair):
    return [round(float(255 * image[0, 0, 0])) for image in pair.lr]


def run(pool, first, count, size=2):
    """Return the pool's results for the batches from the first on, each with its own generator."""
    return [pool(batch(number, size), seeded(1000 + number)) for number in range(first, first + count)]


def test_batches_pass_while_the_pool_fills():
    for number, pair in enumerate(run(ShufflePool(6), 0, 3)):
        for name in ("lr", "lr_up", "hr"):
            assert torch.equal(getattr(pair, name), getattr(batch(number), name))


def test_pairs_are_exchanged_whole_and_none_is_lost():
    pool = ShufflePool(6)
    run(pool, 0, 3)
    inside = set(range(6))
    met = []
    for number in range(3, 43):
        pair = pool(batch(number), seeded(1000 + number))
        leaving = numbers(pair)
        assert len(set(leaving)) == 2
        assert inside >= set(leaving)
        inside = inside - set(leaving) | {2 * number, 2 * number + 1}
        met += leaving
        for index, left in enumerate(leaving):
            origin = batch(left // 2)
            for name in ("lr", "lr_up", "hr"):
                assert torch.equal(getattr(pair, name)[index], getattr(origin, name)[left % 2])
    assert any(left // 2 != right // 2 for left, right in zip(met[::2], met[1::2], strict=True))  # they do mix
    assert sorted({*met, *inside}) == list(range(86))


def test_the_same_seeds_give_the_same_bytes():
    first, again = run(ShufflePool(6), 0, 9), run(ShufflePool(6), 0, 9)
    assert all(torch.equal(a.hr, b.hr) and torch.equal(a.lr, b.lr) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("steps", [0, 1, 3, 7])
def test_a_resumed_pool_goes_on_as_if_nothing_had_happened(steps):
    whole = ShufflePool(6)
    run(whole, 0, steps)
    state = whole.state_dict()
    resumed = ShufflePool(6)
    resumed.load_state_dict({name: tensor.clone() for name, tensor in state.items()})
    for expected, pair in zip(run(whole, steps, 6), run(resumed, steps, 6), strict=True):
        for name in ("lr", "lr_up", "hr"):
            assert torch.equal(getattr(expected, name), getattr(pair, name))


def test_a_loaded_state_is_copied():
    pool, other = ShufflePool(4), ShufflePool(4)
    run(pool, 0, 2)
    other.load_state_dict(pool.state_dict())
    run(other, 2, 3)
    assert set(numbers(run(pool, 2, 1)[0])) <= {0, 1, 2, 3}
    assert pool.state_dict()["lr"].data_ptr() != other.state_dict()["lr"].data_ptr()


def test_images_are_kept_in_eight_bits():
    pool = ShufflePool(4)
    run(pool, 0, 1)
    state = pool.state_dict()
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in state.items()} == {
        "lr": (torch.uint8, (4, 3, 8, 8)),
        "lr_up": (torch.uint8, (4, 3, 32, 32)),
        "hr": (torch.uint8, (4, 3, 32, 32)),
        "filled": (torch.int64, ()),
    }


def test_hr_of_other_values_is_rounded():
    pair = batch(0)._replace(hr=torch.full((2, 3, 32, 32), 99.6 / 255))
    assert torch.equal(ShufflePool(2)(pair, seeded()).hr, torch.full((2, 3, 32, 32), 100 / 255))


def test_sharpened_hr_belongs_to_the_pairs_that_leave():
    pool = ShufflePool(2)
    pool(batch(0, sharp=True), seeded())
    pair = pool(batch(1, sharp=True), seeded())
    assert torch.equal(pair.hr_sharp, sharpen(pair.hr))
    assert numbers(pair) in ([0, 1], [1, 0])
    assert pool(batch(2), seeded()).hr_sharp is None


def test_float64_stays():
    pair = ShufflePool(2)(Degraded(*(None if x is None else x.double() for x in batch(0))), seeded())
    assert pair.lr.dtype == pair.hr.dtype == torch.float64
    torch.testing.assert_close(pair.hr, batch(0).hr.double(), rtol=0, atol=2**-24)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: ShufflePool(0), ValueError, "size is 0, but must be at least 1"),
        (lambda: ShufflePool(2.5), TypeError, "size is 2.5, but must be an int"),
        (
            lambda: ShufflePool(180)(batch(0, size=8), seeded()),
            ValueError,
            "size is 180, but must be a multiple of the batch, which is 8",
        ),
        (lambda: ShufflePool(4)(batch(0), None), TypeError, "generator is None, but must be a torch.Generator"),
        (lambda: other_shape(), ValueError, r"pair.lr has shape \(2, 3, 9, 9\), but must be \(2, 3, 8, 8\) as in"),
        (lambda: other_batch(), ValueError, "pair has 4 images, but must have as many as the batches before it"),
        (lambda: ShufflePool(4).load_state_dict({}), ValueError, "state has .* but must come from a pool of 4"),
        (
            lambda: ShufflePool(2).load_state_dict(filled(4).state_dict()),
            ValueError,
            "with 4 pairs, but must come from a pool of 2",
        ),
        (
            lambda: ShufflePool(8).load_state_dict(filled(4).state_dict()),
            ValueError,
            r"has dtype torch.uint8 and shape \(4, 3, .*but must have torch.uint8 and \(8, 3, H, W\)",
        ),
    ],
)
def test_a_wrong_call_is_one_sentence(call, error, match):
    with pytest.raises(error, match=match):
        call()


def filled(size):
    pool = ShufflePool(size)
    run(pool, 0, size // 2)
    return pool


def other_shape():
    filled(4)(batch(5, side=9), seeded())


def other_batch():
    pool = ShufflePool(8)
    pool(batch(0, size=2), seeded())
    pool(batch(1, size=4), seeded())
