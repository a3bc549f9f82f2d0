"""``corgi tx``: transactions and prepared messages that have not ended; settle one whose producer is gone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from corgi.base.errors import CorgiError
from corgi.cli.common import ClusterOption, connected, run
from corgi.cli.exits import Exit
from corgi.cli.output import OutputOption, print_json, print_table
from corgi.cli.words import say

if TYPE_CHECKING:
    from corgi.client.prepared import OpenTransaction

app = App(
    name="tx",
    help="List transactions and prepared messages, and settle those left behind.",
    help_epilogue="""Examples:

corgi tx list

corgi tx settle 5f0c8e --commit""",
    help_format="plaintext",
)
NAME_SHOWN = 32


@app.command(name="list", help_epilogue="")
def list_(*, cluster: ClusterOption = None, output: OutputOption = "table") -> int:
    """List what has not ended: open transactions, and prepared messages.

    Example: corgi tx list -o json

    JSON: [{"name", "state", "age_ms", "life_ms", "partitions": [{"topic",
    "partition"}], "id"}]; state is open, committing, aborting or prepared. Of a
    prepared message name is its producer's, and id its own.
    """

    async def work() -> tuple[list[OpenTransaction], dict[int, str]]:
        async with connected(cluster) as mq:
            return await mq.transactions(), {topic.id: topic.name for topic in await mq.topics.list()}

    found, names = run(work())
    if output == "json":
        print_json(
            [
                {
                    "name": one.name,
                    "state": one.state,
                    "age_ms": one.age_ms,
                    "life_ms": one.life_ms,
                    "partitions": [{"topic": names.get(t, str(t)), "partition": p} for t, p in one.partitions],
                    "id": one.id,
                }
                for one in found
            ]
        )
    elif found:
        rows = [
            (
                one.id or one.name[:NAME_SHOWN],
                one.state,
                f"{one.age_ms / 1000:.0f} s",
                ", ".join(f"{names.get(t, str(t))}/{p}" for t, p in one.partitions[:4]),
                one.name[:NAME_SHOWN] if one.id else "",
            )
            for one in found
        ]
        print_table(("transaction", "state", ">age", "partitions", "producer"), rows)
    else:
        say("nothing is open")
    return Exit.OK


@app.command(help_epilogue="")
def settle(
    id_: Annotated[str, Parameter(name="id")],
    /,
    *,
    commit: Annotated[bool, Parameter(negative="--rollback")],
    cluster: ClusterOption = None,
) -> int:
    """Commit a prepared message, or roll it back, in its producer's place.

    Only whoever knows what became of what it was prepared for should do so.

    Example: corgi tx settle 5f0c8e --rollback

    Parameters
    ----------
    id_
        The message's id, or its beginning, as corgi tx list shows it.
    commit
        Let it be seen, or (--rollback) drop it.
    """

    async def work() -> str:
        async with connected(cluster) as mq:
            fitting = [one for one in await mq.transactions() if one.id and one.id.startswith(id_)]
            if len(fitting) != 1:
                text = f"{len(fitting)} prepared messages have an id that begins with {id_!r}"
                raise CorgiError("unknown-transaction", text)
            await mq.settle(fitting[0], commit=commit)
            return fitting[0].id

    say(f"{run(work())} was {'committed' if commit else 'rolled back'}")
    return Exit.OK
