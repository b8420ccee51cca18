"""Which formats a machine has."""

import pytest

from minigpt import formats


def test_bf16_of_the_cpu_is_read_from_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    def reads(text: str, architecture: str = "x86_64") -> bool:
        monkeypatch.setattr(formats.platform, "machine", lambda: architecture)
        monkeypatch.setattr(formats.Path, "read_text", lambda path: text)
        return formats.native_bf16("cpu")

    assert reads("model name : x\nflags\t\t: fpu avx512f avx512_bf16\n")
    assert reads("flags\t\t: fpu amx_bf16 amx_tile\n")
    assert not reads("model name : avx512_bf16\nflags\t\t: fpu avx512f\n")
    assert reads("Features\t: fp asimd bf16\n", "aarch64")

    def fails(path: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(formats.Path, "read_text", fails)
    assert not formats.native_bf16("cpu")
