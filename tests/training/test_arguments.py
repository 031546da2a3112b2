import pytest

from training.arguments import CPU_TOKENS, RunArguments, split_for_cpu


@pytest.mark.parametrize(
    ("rows", "longest", "expected"),
    [(256, 512, (16, 64)), (6, CPU_TOKENS // 2, (2, 12)), (3, 2 * CPU_TOKENS, (1, 12)), (128, 64, (128, 4))],
)
def test_a_cpu_gets_smaller_micro_batches_and_the_same_rows_per_update(tmp_path, rows, longest, expected):
    args = RunArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=rows, gradient_accumulation_steps=4, use_cpu=True
    )
    split_for_cpu(args, longest)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == expected
    assert expected[0] * expected[1] == rows * 4
