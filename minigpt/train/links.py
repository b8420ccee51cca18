"""How fast GPUs reach their memory and each other, by the makers' data sheets, beside peak.py's.

GB are 1e9 bytes; a link's figure is of one direction (data sheets add up both).
"""

from typing import NamedTuple

from minigpt.train.peak import known


class Links(NamedTuple):
    """What one GPU has, and the machine that it stands in."""

    memory_gb: float
    memory_gb_s: float
    between_gpus_gb_s: float  # of one GPU to the others of its machine
    network_gb_s: float  # of a machine of eight to the others
    hop_us: float  # from one GPU to the next


# Latency of a hop and of a call, in us: NCCL, src/graph/tuning.cc, ring, protocol Simple.
NVLINK_HOP, PCIE_HOP, NETWORK_HOP, CALL = 3.4, 5.7, 9.6, 8.4
# Of the line rate NCCL's rings reach 370 of 450 GB/s over NVLink (github.com/NVIDIA/nccl-tests,
# issue 212) and 46-48 of 50 over InfiniBand (issue 290). PCIe is taken to be as NVLink.
LINK_EFFICIENCY, NETWORK_EFFICIENCY = 0.82, 0.92
ETHERNET = 12.5  # assumed where there is no reference machine: 100 Gb/s

# Machines: DGX B200, H200 and H100 (8 x 400 Gb/s), DGX A100 (8 x 200 Gb/s), DGX-1 (4 x 100 Gb/s).
# Cards count by their PCIe, also where a bridge can join two.
LINKS: dict[str, Links] = {
    "B200": Links(180, 8000, 900, 400, NVLINK_HOP),
    "H200": Links(141, 4800, 450, 400, NVLINK_HOP),
    "H100 PCIe": Links(80, 2000, 64, ETHERNET, PCIE_HOP),
    "H100 NVL": Links(94, 3900, 64, ETHERNET, PCIE_HOP),
    "H100": Links(80, 3350, 450, 400, NVLINK_HOP),
    "A100": Links(80, 2039, 300, 200, NVLINK_HOP),
    "A10G": Links(24, 600, 32, ETHERNET, PCIE_HOP),
    "A10": Links(24, 600, 32, ETHERNET, PCIE_HOP),
    "A40": Links(48, 696, 32, ETHERNET, PCIE_HOP),
    "L40S": Links(48, 864, 32, ETHERNET, PCIE_HOP),
    "L40": Links(48, 864, 32, ETHERNET, PCIE_HOP),
    "L4": Links(24, 300, 32, ETHERNET, PCIE_HOP),
    "RTX 4090": Links(24, 1008, 32, ETHERNET, PCIE_HOP),
    "RTX 3090": Links(24, 936, 32, ETHERNET, PCIE_HOP),
    "V100": Links(32, 900, 150, 50, NVLINK_HOP),
    "T4": Links(16, 320, 16, ETHERNET, PCIE_HOP),
}


def links_of(device_name: str) -> Links | None:
    """Those of a known GPU. Not of a GH200, which stands alone in its machine."""
    return LINKS.get(known(device_name) or "")
