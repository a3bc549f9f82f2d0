"""``corgi user``: the entry of a user of the Kafka listeners, made of a password that is not kept."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Literal

from cyclopts import App, Parameter

from corgi.base.errors import CorgiError
from corgi.cli.exits import Exit
from corgi.cli.output import OutputOption, print_json
from corgi.kafka.credentials import (
    ITERATIONS_DEFAULT,
    ITERATIONS_MAX,
    ITERATIONS_MIN,
    SALT_BYTES,
    SCRAM_SHA_256,
    SCRAM_SHA_512,
    Credential,
    Derivation,
    credential_of,
)
from corgi.kafka.security import check_user_name

app = App(
    name="user",
    help="Make the credentials of users of the Kafka listeners.",
    help_epilogue="""Examples:

corgi user entry alice >> node-1.toml

corgi user entry alice < password.txt""",
    help_format="plaintext",
)
PASSWORD_BYTES_MAX = 1024
_BOTH = (SCRAM_SHA_256, SCRAM_SHA_512)


@app.command(help_epilogue="")
def entry(
    name: str,
    /,
    *,
    mechanism: Literal["SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None,
    iterations: int = ITERATIONS_DEFAULT,
    superuser: Annotated[bool, Parameter(negative=())] = False,
    output: OutputOption = "table",
) -> int:
    """Print a user's entry for the configuration file of every node.

    The password is asked for twice at a terminal; otherwise it is the first
    line of stdin. What is printed lets nodes check it, and nobody know it.

    Examples:

    corgi user entry alice >> node-1.toml

    corgi user entry admin --superuser < password.txt

    JSON: {"name", "credentials": ["SCRAM-SHA-256$ITERATIONS:SALT$KEY:KEY",
    …], "superuser"}

    Parameters
    ----------
    name
        As clients will say it.
    mechanism
        Only for this mechanism; otherwise for both.
    iterations
        What a guess costs; 4096 to 200000.
    superuser
        The user may do everything, whatever the rules say.
    """
    check_user_name(name)
    if not ITERATIONS_MIN <= iterations <= ITERATIONS_MAX:
        told = f"--iterations {iterations}: expected {ITERATIONS_MIN} to {ITERATIONS_MAX}"
        raise CorgiError("invalid-argument", told)
    password = _password()
    credentials = [str(_credential(one, password, iterations)) for one in ((mechanism,) if mechanism else _BOTH)]
    if output == "json":
        print_json({"name": name, "credentials": credentials, "superuser": superuser})
        return Exit.OK
    listed = ",\n".join([f"    {json.dumps(one)}" for one in credentials])
    print(f"\n[[users]]\nname = {json.dumps(name, ensure_ascii=False)}\ncredentials = [\n{listed},\n]")
    if superuser:
        print("superuser = true")
    return Exit.OK


def _password() -> bytes:
    if sys.stdin is not None and sys.stdin.isatty():
        from getpass import getpass

        password = getpass("password: ", stream=sys.stderr).encode(errors="surrogateescape")
        if getpass("once more: ", stream=sys.stderr).encode(errors="surrogateescape") != password:
            raise CorgiError("invalid-argument", "the two are not the same", hint="type it again")
    else:  # bytes as they are, whatever the locale
        password = b"" if sys.stdin is None else sys.stdin.buffer.readline(2 * PASSWORD_BYTES_MAX).rstrip(b"\r\n")
    if not password or b"\0" in password or len(password) > PASSWORD_BYTES_MAX:
        raise CorgiError(
            "invalid-argument",
            f"a password has 1 to {PASSWORD_BYTES_MAX} bytes and no NUL",
            hint="it is the first line of stdin",
        )
    return password


def _credential(mechanism: str, password: bytes, iterations: int) -> Credential:
    import secrets

    return credential_of(Derivation(mechanism, password, secrets.token_bytes(SALT_BYTES), iterations))
