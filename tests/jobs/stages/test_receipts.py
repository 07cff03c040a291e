import pytest

from bank.errors import BankError
from bank.files import file_digest
from jobs.stages.receipts import Receipt, find_receipt, leave_receipt


def made(bank, data=b"abc", key="k"):
    (bank / "out.bin").write_bytes(data)
    return Receipt("stage", key, {"out.bin": file_digest(bank / "out.bin")}, {"patches": 3})


def test_a_stage_with_a_receipt_and_whole_outputs_is_done(tmp_path):
    receipt = made(tmp_path)
    leave_receipt(tmp_path, receipt)
    assert find_receipt(tmp_path, "stage", "k") == receipt


@pytest.mark.parametrize("data", [b"abd", b"ab", None])
def test_a_damaged_output_makes_its_receipt_void(tmp_path, data):
    leave_receipt(tmp_path, made(tmp_path))
    if data is None:
        (tmp_path / "out.bin").unlink()
    else:
        (tmp_path / "out.bin").write_bytes(data)
    assert find_receipt(tmp_path, "stage", "k") is None


def test_a_receipt_for_other_inputs_is_void(tmp_path):
    leave_receipt(tmp_path, made(tmp_path))
    assert find_receipt(tmp_path, "stage", "other") is None


def test_half_a_receipt_is_void(tmp_path):
    leave_receipt(tmp_path, made(tmp_path))
    path = tmp_path / "work/receipts/stage.json"
    path.write_bytes(path.read_bytes()[:20])
    assert find_receipt(tmp_path, "stage", "k") is None


def test_two_different_results_for_the_same_inputs_fail_loudly(tmp_path):
    leave_receipt(tmp_path, made(tmp_path))
    with pytest.raises(BankError, match=r"stage was made twice .* differently \(out\.bin\)"):
        leave_receipt(tmp_path, made(tmp_path, b"xyz"))


def test_two_equal_results_for_the_same_inputs_are_fine(tmp_path):
    leave_receipt(tmp_path, made(tmp_path))
    leave_receipt(tmp_path, made(tmp_path))


def test_other_inputs_may_give_another_result(tmp_path):
    leave_receipt(tmp_path, made(tmp_path))
    leave_receipt(tmp_path, made(tmp_path, b"xyz", "other"))
    assert find_receipt(tmp_path, "stage", "other") is not None
