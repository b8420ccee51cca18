"""What known GPUs can do, by the makers' data sheets.

TFLOP/s are of dense matrix products with fp32 accumulation ("with sparsity" figures halved). GB are
1e9 bytes; a link's figure is of one direction (data sheets add up both).
"""

import re
from typing import NamedTuple


class Links(NamedTuple):
    """How fast one GPU reaches its memory and others, in the machine that it stands in."""

    memory_gb: float
    memory_gb_s: float
    between_gpus_gb_s: float  # of one GPU to the others of its machine
    network_gb_s: float  # of a machine of eight to the others
    hop_us: float  # from one GPU to the next


class Gpu(NamedTuple):
    half_tflops: float  # bf16 and fp16
    single_tflops: float  # fp32 as TF32
    links: Links | None


# Latency of a hop in us: NCCL, src/graph/tuning.cc, ring, protocol Simple.
NVLINK_HOP, PCIE_HOP = 3.4, 5.7
ETHERNET = 12.5  # assumed where there is no reference machine: 100 Gb/s

# The first entry whose words occur in the device's name counts.
# Machines: DGX B200, H200 and H100 (8 x 400 Gb/s), DGX A100 (8 x 200 Gb/s), DGX-1 (4 x 100 Gb/s).
# A GH200 stands alone in its machine. Cards count by their PCIe, also where a bridge can join two.
GPUS: dict[str, Gpu] = {
    "B200": Gpu(2250.0, 1100.0, Links(180, 8000, 900, 400, NVLINK_HOP)),
    "H200": Gpu(989.4, 494.7, Links(141, 4800, 450, 400, NVLINK_HOP)),
    "GH200": Gpu(989.4, 494.7, None),
    "H100 PCIe": Gpu(756.0, 378.0, Links(80, 2000, 64, ETHERNET, PCIE_HOP)),
    "H100 NVL": Gpu(835.5, 417.5, Links(94, 3900, 64, ETHERNET, PCIE_HOP)),
    "H100": Gpu(989.4, 494.7, Links(80, 3350, 450, 400, NVLINK_HOP)),
    "A100": Gpu(311.9, 155.9, Links(80, 2039, 300, 200, NVLINK_HOP)),
    "A10G": Gpu(70.0, 35.0, Links(24, 600, 32, ETHERNET, PCIE_HOP)),
    "A10": Gpu(125.0, 62.5, Links(24, 600, 32, ETHERNET, PCIE_HOP)),
    "A40": Gpu(149.7, 74.8, Links(48, 696, 32, ETHERNET, PCIE_HOP)),
    "L40S": Gpu(362.1, 183.2, Links(48, 864, 32, ETHERNET, PCIE_HOP)),
    "L40": Gpu(181.0, 90.5, Links(48, 864, 32, ETHERNET, PCIE_HOP)),
    "L4": Gpu(121.0, 60.5, Links(24, 300, 32, ETHERNET, PCIE_HOP)),
    "RTX 4090": Gpu(165.2, 82.6, Links(24, 1008, 32, ETHERNET, PCIE_HOP)),
    "RTX 3090": Gpu(71.0, 35.6, Links(24, 936, 32, ETHERNET, PCIE_HOP)),
    "V100": Gpu(125.0, 15.7, Links(32, 900, 150, 50, NVLINK_HOP)),  # fp16; no TF32
    "T4": Gpu(65.0, 8.1, Links(16, 320, 16, ETHERNET, PCIE_HOP)),  # fp16; no TF32
}


def gpu_of(device_name: str) -> Gpu | None:
    """A known GPU by the name that its driver gives it."""
    for name, gpu in GPUS.items():
        if re.search(rf"\b{name}\b", device_name) and "Laptop" not in device_name:
            return gpu
    return None
