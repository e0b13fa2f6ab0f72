"""The service and the key: flags, then environment, then the profiles in `$XDG_CONFIG_HOME/bulk/config.toml`."""

import json
import os
import shlex
import stat
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api.client.command.failure import Usage

DEFAULT_URL = "http://127.0.0.1:8080"
FIELDS = ("url", "api_key", "key_command")


@dataclass(frozen=True)
class Target:
    """A service and the key for it."""

    url: str
    api_key: str | None


def folder(variable: str, default: str) -> Path:
    """A folder of the XDG base directory specification, for this command."""
    return Path(os.environ.get(variable) or Path.home() / default) / "bulk"


def path() -> Path:
    return folder("XDG_CONFIG_HOME", ".config") / "config.toml"


def target(*, url: str | None, profile: str | None) -> Target:
    """The service for requests. Raises `Usage` for a profile that does not exist."""
    config = read()
    name = profile or os.environ.get("BULK_PROFILE") or None
    url = url or os.environ.get("BULK_URL") or None
    api_key = os.environ.get("BULK_API_KEY") or None
    if name is None and url is None:
        name = config.get("default")
    chosen: dict[str, Any] = {}
    if name is not None:
        chosen = config.get("profiles", {}).get(name)
        if chosen is None:
            raise Usage(f"There is no profile {name!r}.", "bulk profile list")
    if api_key is None and "key_command" in chosen:
        api_key = _output(chosen["key_command"])
    return Target((url or chosen.get("url") or DEFAULT_URL).rstrip("/"), api_key or chosen.get("api_key"))


def read() -> dict[str, Any]:
    """The configuration; empty if there is none. Raises `Usage` if other users can read it, or it is not TOML."""
    file = path()
    try:
        mode = file.stat().st_mode
        content = file.read_text()
    except FileNotFoundError:
        return {}
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise Usage(f"{file} can be read by other users.", f"chmod 600 {shlex.quote(str(file))}")
    try:
        return tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise Usage(f"{file} is not TOML: {error}.", None) from error


def write(config: dict[str, Any]) -> None:
    """Replaces the configuration file, with mode 600."""
    file = path()
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lines = [f"default = {_quoted(config['default'])}", ""] if "default" in config else []
    for name, profile in config.get("profiles", {}).items():
        lines.append(f"[profiles.{_quoted(name)}]")
        lines += [f"{field} = {_quoted(profile[field])}" for field in FIELDS if field in profile]
        lines.append("")
    scratch = file.with_suffix(".new")
    with open(scratch, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as output:
        output.write("\n".join(lines))
    scratch.replace(file)


def _quoted(text: str) -> str:
    # a TOML basic string has the escapes of JSON, and DEL must be escaped too
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _output(command: str) -> str:
    """The first line of the output of a key command."""
    done = subprocess.run(shlex.split(command), stdout=subprocess.PIPE, check=False, text=True)
    if done.returncode or not done.stdout.strip():
        raise Usage(f"The key command {command!r} ended with {done.returncode} and printed no key.", None)
    return done.stdout.splitlines()[0].strip()
