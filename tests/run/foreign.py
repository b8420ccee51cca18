"""Foreign files: put into the way of what minigpt writes, and looked at afterwards."""

from pathlib import Path

NOTES = b"not yours \xff\n"


def every_file(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, locks too, by name."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and not p.is_symlink()
    }


def plant(folder: Path, *names: str) -> dict[Path, bytes]:
    """Foreign files, with the folders that they need."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(NOTES)
    return {folder / name: NOTES for name in names}


def still_there(planted: dict[Path, bytes]) -> None:
    for path, content in planted.items():
        assert path.read_bytes() == content, path
