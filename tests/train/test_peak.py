"""What utilisation is measured against: the table, the measurement, and what a run logs."""

import json

import pytest
import torch
from runs import SMALL, Shell

from minigpt.train import peak
from minigpt.train.peak import matrix_product_flops, peak_of, table_flops


def test_peak_of_known_devices() -> None:
    assert table_flops("NVIDIA A100-SXM4-80GB", "bf16") == 311.9e12
    assert table_flops("NVIDIA A100-SXM4-80GB", "fp32") == 155.9e12
    assert table_flops("NVIDIA H100 80GB HBM3", "bf16") == 989.4e12
    assert table_flops("NVIDIA H100 PCIe", "bf16") == 756e12
    assert table_flops("NVIDIA A10G", "bf16") == 70e12
    assert table_flops("NVIDIA L4", "fp16") == 121e12
    assert table_flops("NVIDIA L40S", "fp16") == 362.1e12
    assert table_flops("Tesla T4", "fp16") == 65e12
    assert table_flops("NVIDIA T400", "fp16") is None
    assert table_flops("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16") is None
    assert table_flops("Some new GPU", "bf16") is None


def test_a_known_gpu_is_held_against_the_format_it_computes_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA A100-SXM4-80GB")
    assert peak_of("cuda", "bf16").flops == 311.9e12
    assert peak_of("cuda", "fp32").flops == 155.9e12
    assert "A100" in peak_of("cuda", "bf16").source


def test_a_cpu_is_measured_once_for_each_format_and_thread_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured: list[tuple[str, str]] = []

    def fake(device: str, precision: str, seconds: float) -> float:
        measured.append((device, precision))
        return 1e11

    monkeypatch.setattr(peak, "matrix_product_flops", fake)
    peak._measured_once.cache_clear()
    try:
        first = peak_of("cpu", "fp32")
        assert (first.flops, first.source) == (
            1e11,
            f"measured, fp32, {torch.get_num_threads()} threads",
        )
        peak_of("cpu", "fp32")
        peak_of("cpu", "bf16")
        assert measured == [("cpu", "fp32"), ("cpu", "bf16")]
        monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
        peak_of("cpu", "fp32")
        assert len(measured) == 3
    finally:
        peak._measured_once.cache_clear()


def test_a_measurement_is_a_rate_of_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fastest product counts: 2 N K M operations over its seconds."""
    # the start, begin and end of three products, the end
    clock = iter([0.0, 0.0, 1.0, 1.0, 1.5, 1.5, 2.5, 9.0])
    monkeypatch.setattr(peak.time, "perf_counter", lambda: next(clock))
    assert matrix_product_flops("cpu", "fp32", 0.0) == 2 * 2048 * 512 * 1376 / 0.5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_logs_its_utilisation_in_its_own_format(shell: Shell, precision: str) -> None:
    assert shell("train", *SMALL, f"train.precision={precision}") == 0, shell.err
    folder = shell.run_folder()
    hardware = json.loads((folder / "run.json").read_text())["hardware"]
    assert hardware["peak_source"] == f"measured, {precision}, 1 threads"
    summary = json.loads((folder / "summary.json").read_text())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    seen = [row for row in lines if "perf/tokens_per_s" in row]
    assert len(seen) == 12
    for row in seen:
        flops = row["perf/tokens_per_s"] * summary["flops_per_token"]
        assert row["perf/mfu"] == pytest.approx(flops / hardware["peak_flops"])
        assert 0 < row["perf/mfu"] < 1
    assert 0 < summary["mfu"] < 1
