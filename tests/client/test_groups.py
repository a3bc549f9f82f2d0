"""``mq.groups`` and `corgi group` against a real node: what people see of a group and do to it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

import corgi
from corgi.base.errors import CorgiError
from corgi.cli.main import main
from corgi.client.sync import connect as connect_sync
from group_member import GroupMember


@pytest.fixture
async def mq(servers: str) -> AsyncIterator[corgi.Corgi]:
    async with corgi.connect(servers) as client:
        yield client


async def consuming(mq: corgi.Corgi, name: str, *, messages: int = 10) -> GroupMember:
    """A member that holds all two partitions of the topic ``name``, in a group of the same name."""
    await mq.topics.create(name, partitions=2)
    for i in range(messages):
        await mq.publish(name, b"%d" % i, partition=0)
    member = GroupMember(mq, name, "one", name)
    await member.until(lambda: len(member.held) == 2)
    return member


async def test_a_group_is_described_with_lag_and_owners(mq: corgi.Corgi, name: str) -> None:
    member = await consuming(mq, name)
    (unit,) = [unit for unit in member.held if unit[1] == 0]
    assert await member.commit(unit, 4) == ""
    described = await mq.groups.describe(name)
    assert (described.state, described.slices, described.lag) == ("stable", 1, 6)
    assert [(m.member, m.topics) for m in described.members] == [("one", (name,))]
    first, second = described.units
    assert (first.topic, first.partition, first.member, first.checkpoint, first.end, first.lag) == (
        name, 0, "one", 4, 10, 6,
    )  # fmt: skip
    assert (second.partition, second.checkpoint, second.lag) == (1, -1, 0)
    assert name in [group.name for group in await mq.groups.list()]


async def test_ranges_above_the_checkpoint_are_no_lag(mq: corgi.Corgi, name: str) -> None:
    member = await consuming(mq, name)
    (unit,) = [unit for unit in member.held if unit[1] == 0]
    from corgi.wire import group_messages as g

    entry = g.CommitEntry(*unit, member.held[unit].owner_epoch, -1, 2, ((4, 7),))
    await member.ask(g.Commit(name, "one", 10_000, (entry,)), lambda _: None)
    (told,) = [unit for unit in (await mq.groups.describe(name)).units if unit.partition == 0]
    assert (told.checkpoint, told.ahead, told.lag) == (2, 3, 5)


async def test_a_reset_moves_members_and_tells_where_to(mq: corgi.Corgi, name: str) -> None:
    member = await consuming(mq, name)
    assert await mq.groups.reset(name, name, "latest") == {0: 10, 1: 0}
    assert await mq.groups.reset(name, name, {0: 3}) == {0: 3}
    assert await mq.groups.reset(name, name, 5, partitions=[0]) == {0: 5}
    await member.until(lambda: {one.partition: one.offset for one in member.held.values()} == {0: 5, 1: 0})
    with pytest.raises(CorgiError) as refused:
        await mq.groups.reset(name, name, {0: 99})
    assert refused.value.code == "offset-out-of-range"
    await member.until(lambda: {one.partition: one.offset for one in member.held.values()} == {0: 5, 1: 0})


async def test_a_group_with_members_stays_and_one_without_goes(mq: corgi.Corgi, name: str) -> None:
    member = await consuming(mq, name)
    with pytest.raises(CorgiError) as refused:
        await mq.groups.delete(name)
    assert refused.value.code == "group-not-empty"
    await member.beat(leave=True)
    await mq.groups.delete(name)
    with pytest.raises(CorgiError) as gone:
        await mq.groups.describe(name)
    assert gone.value.code == "unknown-group"
    assert name not in [group.name for group in await mq.groups.list()]


async def test_consumers_without_membership_are_seen_reset_and_deleted(mq: corgi.Corgi, name: str) -> None:
    from corgi.wire import group_messages as g

    await mq.topics.create(name)
    await mq.publish(name, b"x")
    topic = (await mq.topics.describe(name)).id
    loner = GroupMember(mq, name, "", name)
    entry = g.CommitEntry(topic, 0, 0, 0, -1, 1)  # type: ignore[arg-type]
    reply = await loner.ask(g.Commit(name, "", 10_000, (entry,)), lambda _: None)
    assert isinstance(reply, g.CommitReply)
    assert reply.entries == (0,)
    described = await mq.groups.describe(name)
    assert (described.state, [unit.checkpoint for unit in described.units]) == ("empty", [1])
    assert await mq.groups.reset(name, name, "earliest") == {0: 0}
    await mq.groups.delete(name)
    assert name not in [group.name for group in await mq.groups.list()]


@pytest.mark.parametrize("bad", ["", "n" * 250, 7, None])
async def test_a_name_that_is_none_is_refused(mq: corgi.Corgi, bad: str) -> None:
    for call in (mq.groups.describe, mq.groups.delete):
        with pytest.raises(CorgiError) as refused:
            await call(bad)
        assert refused.value.code == "invalid-argument"


async def test_partitions_that_are_none_are_refused(mq: corgi.Corgi, name: str) -> None:
    await consuming(mq, name)
    for to, partitions, code in (
        ("latest", [2], "unknown-partition"),
        ({-1: 0}, None, "unknown-partition"),
        ({0: 0}, [1], "invalid-argument"),
        ("yesterday", None, "invalid-argument"),
        (-1, None, "invalid-argument"),
    ):
        with pytest.raises(CorgiError) as refused:
            await mq.groups.reset(name, name, to, partitions=partitions)  # type: ignore[arg-type]
        assert refused.value.code == code


async def test_the_command_line_shows_and_changes_the_same(
    mq: corgi.Corgi, name: str, servers: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import asyncio

    member = await consuming(mq, name)

    async def corgi_(*words: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(main, ["group", *words, "-c", servers])
        out, err = capsys.readouterr()
        return code, out, err

    _, out, _ = await corgi_("list", "-o", "json")
    listed = {"group": name, "kind": "native", "members": 1, "topics": [name], "slices": 1, "coordinator": 1}
    assert listed in json.loads(out)
    assert name in (await corgi_("list"))[1]
    _, out, _ = await corgi_("describe", name, "-o", "json")
    told = json.loads(out)
    assert (told["group"], told["lag"], len(told["units"])) == (name, 10, 2)
    assert "stable" in (await corgi_("describe", name))[1]
    _, out, _ = await corgi_("reset", name, name, "--to", "latest", "--partition", "0", "-o", "json")
    assert json.loads(out) == {"group": name, "topic": name, "offsets": {"0": 10}}
    code, _, err = await corgi_("delete", name)
    assert code == 1
    assert "[group-not-empty]" in err
    await member.beat(leave=True)
    assert (await corgi_("delete", name, "-o", "json"))[1] == json.dumps({"deleted": name}) + "\n"
    code, _, err = await corgi_("describe", name)
    assert code == 1
    assert "hint: see: corgi group list" in err
    assert (await corgi_("reset", name, name, "--to", "tomorrow"))[0] == 2


def test_the_synchronous_face_has_them_too(servers: str, name: str) -> None:
    with connect_sync(servers) as mq:
        with pytest.raises(CorgiError) as gone:
            mq.groups.describe(name)
        assert gone.value.code == "unknown-group"
        mq.topics.create(name)
        for call in (lambda: mq.groups.delete(name), lambda: mq.groups.reset(name, name, "earliest")):
            with pytest.raises(CorgiError) as refused:
                call()
            assert refused.value.code == "unknown-group"
        assert name not in [group.name for group in mq.groups.list()]
