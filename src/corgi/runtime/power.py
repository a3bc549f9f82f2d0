"""Whether the computer ran on since the node's last life: the name that the kernel gives to each of its own lives."""

from __future__ import annotations

from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def kernel_boot_id(path: Path = BOOT_ID) -> str:
    """Another one after each start of the computer; "" where the system does not tell."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()[:64]
    except OSError:
        return ""
