"""What is wrong with a configuration: all problems at once, each with file and line."""

from collections.abc import Iterable
from difflib import get_close_matches

from undercroft.config.files import ConfigError, Place

_NAME_CHARS_MAX = 60


class Report:
    """Collects problems and warnings while a configuration is read."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.warnings: list[str] = []

    def problem(self, place: Place | str, text: str) -> None:
        self.problems.append(f"{place}: {text}")

    def warn(self, place: Place | str, text: str) -> None:
        self.warnings.append(f"{place}: {text}")

    def unknown(self, place: Place, name: str, where: str, known: Iterable[str]) -> None:
        """A setting that nobody knows: a warning, with what was probably meant."""
        close = get_close_matches(name.lower(), known, n=1, cutoff=0.75)
        hint = f'; did you mean "{close[0]}"?' if close else ""
        self.warn(place, f'unknown setting "{printable(name)}"{where}{hint}')

    def raise_problems(self) -> None:
        """Raises ConfigError if there are any."""
        if self.problems:
            raise ConfigError("\n".join(self.problems))


def printable(name: str) -> str:
    """A name from the file, safe to show: names are no secrets, but may be long or odd."""
    safe = "".join(c if c.isprintable() else "?" for c in name[:_NAME_CHARS_MAX])
    return safe + ("…" if len(name) > _NAME_CHARS_MAX else "")
