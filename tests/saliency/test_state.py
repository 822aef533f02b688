"""The state of a long run: found again exactly, and only by the run that it belongs to."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ies_helpers.saliency.smoothgrad import RunState

LESIONS = [np.array([[1, 2, 3]]), np.array([[4, 5, 6], [4, 5, 7]])]
TOTALS = [torch.arange(24, dtype=torch.float64).reshape(1, 2, 3, 4) / 7, torch.full((1, 2, 2, 2), 1 / 3).double()]


@pytest.fixture
def state(tmp_path: Path) -> RunState:
    """Both lesions saved, after 7 and 9 draws."""
    saved = RunState(tmp_path / "running", "key", every=0)
    saved.save(LESIONS, TOTALS, [7, 9])
    return saved


def loaded(state: RunState, lesion: int = 0) -> tuple[int, torch.Tensor]:
    total = torch.zeros_like(TOTALS[lesion])
    return state.load(LESIONS[lesion], total, 99), total


def test_sums_come_back_bit_by_bit_in_another_run_of_the_same_key(state: RunState) -> None:
    again = RunState(state.folder, "key")
    for lesion, draws in enumerate((7, 9)):
        got, total = loaded(again, lesion)
        assert got == draws
        assert torch.equal(total, TOTALS[lesion])


def test_another_key_or_another_lesion_starts_anew(state: RunState) -> None:
    assert loaded(RunState(state.folder, "other key"))[0] == 0
    assert state.load(np.array([[1, 2, 4]]), torch.zeros_like(TOTALS[0]), 99) == 0
    total = torch.zeros(1, 9, 9, 9, dtype=torch.float64)
    assert state.load(LESIONS[0], total, 99) == 0
    assert not total.any()


def test_sums_of_another_kind_count_as_not_there(state: RunState) -> None:
    """A file of one sum a lesion, as an earlier version wrote it, is not taken for a sum and its deviations."""
    both = torch.zeros(2, *TOTALS[0].shape, dtype=torch.float64)
    assert state.load(LESIONS[0], both, 99) == 0
    assert not both.any()


def damaged(path: Path, how: str) -> None:
    content = path.read_bytes()
    values = np.zeros((1, 2, 3, 4))
    match how:
        case "empty":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(content[: len(content) // 2])
        case "flipped":
            middle = content.index(TOTALS[0].numpy().tobytes()) + 50
            path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        case "text":
            path.write_text("not an archive")
        case "without draws":
            np.savez(path, total=values + 1)
        case "without sums":
            np.savez(path, draws=3)
        case "many draws":
            np.savez(path, total=values + 1, draws=np.arange(3))
        case "objects":
            np.savez(path, total=values.astype(object), draws=3)
        case "letters":
            np.savez(path, total=values.astype(str), draws=3)
        case "not finite":
            np.savez(path, total=values + np.nan, draws=3)


DAMAGES = (
    "empty",
    "cut",
    "flipped",
    "text",
    "without draws",
    "without sums",
    "many draws",
    "objects",
    "letters",
    "not finite",
)


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_file_counts_as_not_there_and_leaves_the_sum_alone(state: RunState, how: str) -> None:
    damaged(state._path(LESIONS[0]), how)
    draws, total = loaded(state)
    assert draws == 0
    assert not total.any()
    assert loaded(state, 1)[0] == 9


def test_nothing_is_saved_before_its_time(tmp_path: Path) -> None:
    state = RunState(tmp_path / "running", "key", every=3600)
    state.save(LESIONS, TOTALS, [1, 1])
    assert list(tmp_path.iterdir()) == []
    state.every = 0
    state.save(LESIONS, TOTALS, [2, 2])
    state.every = 3600
    state.save(LESIONS, TOTALS, [3, 3])
    assert loaded(state)[0] == 2


def test_clearing_removes_this_run_and_leaves_another(state: RunState) -> None:
    other = RunState(state.folder, "other", every=0)
    other.save(LESIONS[:1], TOTALS[:1], [5])
    state.clear()
    assert [loaded(state, n)[0] for n in (0, 1)] == [0, 0]
    assert loaded(other)[0] == 5
    other.clear()
    assert not state.folder.exists()
    other.clear()  # once more does no harm


def test_a_failing_write_keeps_the_last_sums(state: RunState, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, **_: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        state.save(LESIONS, [t + 1 for t in TOTALS], [8, 10])
    draws, total = loaded(state)
    assert draws == 7
    assert torch.equal(total, TOTALS[0])
    assert sorted(p.suffix for p in state.folder.iterdir()) == [".npz", ".npz"]
