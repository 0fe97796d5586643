"""Files that installed packages carry, and the folder for files exported from them."""

from importlib.util import find_spec
from pathlib import Path

from zoo.model import Places, UnavailableError


def package_folder(package: str) -> Path:
    """Folder of an installed package, without importing it; UnavailableError if it is not installed."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UnavailableError(f"the package {package} is not installed")
    return Path(next(iter(spec.submodule_search_locations)))


def file_in_wheel(package: str, name: str) -> Path:
    """A file inside an installed package."""
    path = package_folder(package) / name
    if not path.is_file():
        raise UnavailableError(f"{package} is installed but has no {name}: another version is needed")
    return path


def cached(places: Places, name: str) -> Path:
    """Path of an exported file in the cache folder, which is made."""
    places.cache.mkdir(parents=True, exist_ok=True)
    return places.cache / name
