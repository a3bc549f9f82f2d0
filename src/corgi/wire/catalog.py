"""Every message of the protocol by its number."""

from __future__ import annotations

from corgi.wire import group_messages as g
from corgi.wire import messages as m
from corgi.wire import transaction_messages as t

REQUESTS: dict[int, type[m.WireMessage]] = {
    kind.TYPE: kind
    for kind in (
        m.Hello, m.Produce, m.Fetch, m.Subscribe, m.Credit, m.Unsubscribe, m.Metadata, m.CreateTopic, m.AlterTopic,
        m.DeleteTopic, m.ListOffsets, m.DeleteRecords, m.InitProducer, m.Status, m.Ping,
        g.GroupHeartbeat, g.Commit, g.Cursors, g.ListGroups, g.DescribeGroup, g.DeleteGroup, g.ResetGroup, g.Sessions,
        t.InitTransactions, t.OpenTransaction, t.EndTransaction, t.Prepare, t.Settle, t.Watch, t.ListTransactions,
        t.Atomic,
    )
}  # fmt: skip
REPLIES: dict[int, type[m.WireMessage]] = {
    kind.TYPE: kind
    for kind in (
        m.HelloReply, m.ProduceReply, m.FetchReply, m.SubscribeReply, m.UnsubscribeReply, m.MetadataReply,
        m.TopicReply, m.ListOffsetsReply, m.InitProducerReply, m.StatusReply, m.Pong, m.Deliver, m.SubscriptionEnded,
        m.DeleteRecordsReply, m.LeaderChanged, m.TopicsChanged, m.ErrorReply,
        g.GroupHeartbeatReply, g.CommitReply, g.CursorsReply, g.ListGroupsReply, g.DescribeGroupReply,
        g.DeleteGroupReply, g.ResetGroupReply, g.SessionsReply, g.GroupChanged,
        t.InitTransactionsReply, t.OpenTransactionReply, t.EndTransactionReply, t.PrepareReply, t.SettleReply,
        t.WatchReply, t.ListTransactionsReply, t.AtomicReply, t.CheckBack,
    )
}  # fmt: skip
