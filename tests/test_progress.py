"""The bar, as it is where there is no terminal."""

import pytest

from innerloop import progress


@pytest.mark.parametrize(("seconds", "shown"), [(0.004, "250/s"), (0.4, "2.5/s"), (18.25, "18.2 s each"), (300, "300 s each")])
def test_a_rate_can_be_read_at_any_speed(
    seconds: float, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    with progress.bar("training", 10_000) as bar:
        clock[0] += 1_000 * seconds
        bar.to(1_000, "loss 0.5")
    assert capsys.readouterr().err.strip() == f"training: 1,000 of 10,000, {shown} loss 0.5"
