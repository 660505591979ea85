"""Envoy's response flags: the bits of the attribute `response.flags` as the short names of its access log.

The order is that of Envoy's `CoreResponseFlag`; a test provokes several of them with the real Envoy.
"""

from __future__ import annotations

NAMES = (
    "LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI",
    "FI", "RL", "UAEX", "RLSE", "DC", "URX", "SI", "IH", "DPE", "UMSDR",
    "RFCF", "NFCF", "DT", "UPE", "NC", "OM", "DF", "DO", "DR", "UDO",
)  # fmt: skip


def names(bits: int) -> list[str]:
    """The names of the bits that are set, lowest first. A bit that Envoy has added since shows as `bit N`."""
    if not bits:
        return []
    return [_name(index) for index in range(bits.bit_length()) if bits >> index & 1]


def _name(index: int) -> str:
    return NAMES[index] if index < len(NAMES) else f"bit {index}"
