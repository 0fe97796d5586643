"""Which of many samples are taken: as even as can be, and the same every time."""

import pytest

from comq_onnx.run.feeds.wanted import by_folder, files_below, spread


@pytest.mark.parametrize("sizes", [[10], [3, 3, 3], [1, 50, 7], [0, 5], [2] * 20, [100, 1]])
@pytest.mark.parametrize("count", [1, 2, 7, 20, 1000])
def test_shares_are_as_even_as_sizes_allow(sizes, count):
    taken = spread(sizes, count)
    assert len(taken) == len(set(taken)) == min(count, sum(sizes))
    assert taken == spread(sizes, count)
    shares = [sum(group == g for group, _ in taken) for g in range(len(sizes))]
    assert all(0 <= member < sizes[group] for group, member in taken)
    # A group that gave less than another did so because it has no more, but for one.
    for share, size in zip(shares, sizes, strict=True):
        assert share == size or share >= max(shares) - 1


def test_members_are_evenly_spaced_and_groups_take_turns():
    assert spread([9], 3) == [(0, 1), (0, 4), (0, 7)]
    assert [group for group, _ in spread([8, 8], 6)] == [0, 1, 0, 1, 0, 1]
    assert spread([1] * 10, 5) == [(group, 0) for group in (0, 2, 4, 6, 8)]


def test_files_are_found_below_sorted_and_without_hidden_ones(tmp_path):
    for name in ("b/2.PNG", "b/1.jpg", "a/x/3.png", ".cache/4.png", "__MACOSX/5.png", "b/._1.jpg", "c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = files_below(tmp_path, (".png", ".jpg"))
    assert [str(f.relative_to(tmp_path)) for f in found] == ["a/x/3.png", "b/1.jpg", "b/2.PNG"]
    assert [[f.name for f in group] for group in by_folder(found)] == [["3.png"], ["1.jpg", "2.PNG"]]
    assert tmp_path / "c.txt" in files_below(tmp_path)
