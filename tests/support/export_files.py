"""The files of exports, for tests."""

from pathlib import Path

from db.settings import Settings


def settings_of(service) -> Settings:
    """The settings of a service's processes, for a worker in the test itself."""
    return Settings(export_dir=service.environment["EXPORT_DIR"])


def file_names(settings: Settings) -> list[str]:
    folder = Path(settings.export_dir)
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def is_begun(part: Path) -> bool:
    return part.exists() and part.stat().st_size > 0
