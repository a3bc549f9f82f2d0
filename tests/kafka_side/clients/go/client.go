// A Kafka client of franz-go, for the tests: what it does and writes is told in ../README.md.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

const (
	pause          = 5 * time.Millisecond
	clockMonotonic = 1
)

var (
	background = context.Background()
	saying     sync.Mutex
)

func main() {
	words := os.Args[1:]
	servers, topic := kgo.SeedBrokers(strings.Split(words[1], ",")...), words[2]
	switch words[0] {
	case "publish":
		publish(servers, topic)
	case "read":
		read(servers, topic)
	case "copy":
		copyAll(servers, topic, words[3], number(words[4]))
	case "member":
		member(servers, topic, words[3])
	case "transact":
		transact(servers, topic, words[3], number(words[4]))
	case "administer":
		administer(servers, topic)
	default:
		must(errors.New(words[0]))
	}
}

func publish(servers kgo.Opt, topic string) {
	client := connect(servers, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.AllowAutoTopicCreation())
	over := inputEnds()
	failed := []string{}
	sent := 0
	for {
		select {
		case <-over:
			must(client.Flush(background))
			client.Close()
			tell(map[string]any{"sent": sent, "failed": failed})
			return
		case <-time.After(pause):
		}
		value := strconv.Itoa(sent)
		sent++
		client.Produce(background, &kgo.Record{Topic: topic, Value: []byte(value)}, func(record *kgo.Record, err error) {
			if err != nil {
				saying.Lock()
				failed = append(failed, err.Error())
				saying.Unlock()
				return
			}
			say("%s %d %f", value, record.Offset, now())
		})
	}
}

func read(servers kgo.Opt, topic string) {
	places := map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}
	client := connect(servers, kgo.ConsumePartitions(places))
	defer client.Close()
	for over := false; !over; {
		client.PollFetches(background).EachRecord(func(record *kgo.Record) {
			if string(record.Value) == "end" {
				over = true
			} else if !over {
				say("%s %d %f", record.Value, record.Offset, now())
			}
		})
	}
	tell(map[string]any{"sent": 0, "failed": []string{}})
}

func copyAll(servers kgo.Opt, topic, codec string, count int) {
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	client := connect(servers, kgo.ProducerBatchCompression(codecs[codec]), kgo.AllowAutoTopicCreation())
	records := []*kgo.Record{}
	for i := range count {
		key, value := fmt.Sprintf("key-%d", i%7), fmt.Sprintf("value-%d", i)
		records = append(records, &kgo.Record{Topic: topic, Key: []byte(key), Value: []byte(value)})
	}
	must(client.ProduceSync(background, records...).FirstErr())
	client.Close()
	places := [][]int64{}
	for _, record := range records {
		places = append(places, []int64{int64(record.Partition), record.Offset})
	}
	found := [][]string{}
	for _, record := range all(servers, topic, count) {
		found = append(found, []string{string(record.Key), string(record.Value)})
	}
	tell(map[string]any{"places": places, "read": found})
}

func member(servers kgo.Opt, topic, group string) {
	var mine sync.Mutex
	held := map[int32]bool{}
	change := func(holds bool) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, changed map[string][]int32) {
			mine.Lock()
			defer mine.Unlock()
			for _, partition := range changed[topic] {
				held[partition] = holds
			}
			line := "holds"
			for partition := range int32(100) {
				if held[partition] {
					line += fmt.Sprintf(" %d", partition)
				}
			}
			say("%s", line)
		}
	}
	client := connect(
		servers, kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.SessionTimeout(10*time.Second),
		kgo.HeartbeatInterval(300*time.Millisecond), kgo.OnPartitionsAssigned(change(true)),
		kgo.OnPartitionsRevoked(change(false)), kgo.OnPartitionsLost(change(false)),
	)
	living, end := context.WithCancel(background)
	over := inputEnds()
	go func() {
		<-over
		end()
	}()
	for living.Err() == nil {
		client.PollFetches(living).EachRecord(func(record *kgo.Record) {
			say("read %d %d %s", record.Partition, record.Offset, record.Value)
		})
		must(client.CommitUncommittedOffsets(background))
	}
	client.Close()
}

func transact(servers kgo.Opt, topic, group string, count int) {
	connectAs := func() *kgo.Client {
		return connect(
			servers, kgo.TransactionalID("id-"+topic), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.AllowAutoTopicCreation(),
		)
	}
	publishOne := func(client *kgo.Client, partition int32, value string) {
		record := &kgo.Record{Topic: topic, Partition: partition, Value: []byte(value)}
		must(client.ProduceSync(background, record).FirstErr())
	}
	client := connectAs()
	expected := 1
	for number := range count {
		must(client.BeginTransaction())
		for partition := range int32(3) {
			publishOne(client, partition, fmt.Sprintf("%d-%d", number, partition))
		}
		stage(client, topic, group, int64(number))
		must(client.EndTransaction(background, kgo.TransactionEndTry(number%2 == 0)))
		if number%2 == 0 {
			expected += 3
		}
	}
	must(client.BeginTransaction())
	publishOne(client, 0, "zombie")
	heir := connectAs()
	must(heir.BeginTransaction())
	publishOne(heir, 0, "heir")
	must(heir.EndTransaction(background, kgo.TryCommit))
	fenced := client.EndTransaction(background, kgo.TryCommit) != nil
	found := []string{}
	for _, record := range all(servers, topic, expected) {
		found = append(found, string(record.Value))
	}
	offsets, err := kadm.NewClient(heir).FetchOffsets(background, group)
	must(err)
	offset, _ := offsets.Lookup(topic, 0)
	heir.Close()
	client.Close()
	tell(map[string]any{"read": found, "offset": offset.At, "fenced": fenced})
}

// stage commits an offset of partition 0 with the client's transaction, as a member of the group would.
func stage(client *kgo.Client, topic, group string, offset int64) {
	id, epoch, err := client.ProducerID(background)
	must(err)
	adding := kmsg.NewPtrAddOffsetsToTxnRequest()
	adding.TransactionalID, adding.ProducerID, adding.ProducerEpoch, adding.Group = "id-"+topic, id, epoch, group
	added, err := adding.RequestWith(background, client)
	must(err)
	must(kerr.ErrorForCode(added.ErrorCode))
	place := kmsg.NewTxnOffsetCommitRequestTopicPartition()
	place.Offset = offset
	places := kmsg.NewTxnOffsetCommitRequestTopic()
	places.Topic, places.Partitions = topic, append(places.Partitions, place)
	staging := kmsg.NewPtrTxnOffsetCommitRequest()
	staging.TransactionalID, staging.ProducerID, staging.ProducerEpoch, staging.Group = "id-"+topic, id, epoch, group
	staging.Topics = append(staging.Topics, places)
	staged, err := staging.RequestWith(background, client)
	must(err)
	must(kerr.ErrorForCode(staged.Topics[0].Partitions[0].ErrorCode))
}

func administer(servers kgo.Opt, topic string) {
	client := connect(servers, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	admin := kadm.NewClient(client)
	group, before := "group-"+topic, "60000"
	_, err := admin.CreateTopic(background, 2, 3, map[string]*string{"retention.ms": &before}, topic)
	must(err)
	refused := "made again"
	if _, err = admin.CreateTopic(background, 2, 3, nil, topic); errors.Is(err, kerr.TopicAlreadyExists) {
		refused = "TOPIC_ALREADY_EXISTS"
	}
	grown, err := admin.UpdatePartitions(background, 4, topic)
	must(err)
	must(grown.Error())
	topics, err := admin.ListTopics(background, topic)
	must(err)
	retention := []string{retentionOf(admin, topic)}
	after := "120000"
	altered, err := admin.AlterTopicConfigs(background, []kadm.AlterConfig{{Name: "retention.ms", Value: &after}}, topic)
	must(err)
	must(altered[0].Err)
	for value := range 5 {
		must(client.ProduceSync(background, &kgo.Record{Topic: topic, Value: []byte{byte(value)}}).FirstErr())
	}
	var cut kadm.Offsets
	cut.AddOffset(topic, 0, 2, -1)
	deleted, err := admin.DeleteRecords(background, cut)
	must(err)
	must(deleted.Error())
	starts, err := admin.ListStartOffsets(background, topic)
	must(err)
	ends, err := admin.ListEndOffsets(background, topic)
	must(err)
	var set kadm.Offsets
	set.AddOffset(topic, 0, 3, -1)
	must(admin.CommitAllOffsets(background, group, set))
	described, err := admin.DescribeGroups(background, group)
	must(err)
	listed := lists(admin, group)
	_, err = admin.DeleteGroup(background, group)
	must(err)
	remains := lists(admin, group)
	nodes, err := admin.ListBrokers(background)
	must(err)
	retention = append(retention, retentionOf(admin, topic))
	_, err = admin.DeleteTopic(background, topic)
	must(err)
	other := connect(servers) // that has kept nothing of what it asked before
	left, err := kadm.NewClient(other).ListTopics(background)
	must(err)
	other.Close()
	start, _ := starts.Lookup(topic, 0)
	end, _ := ends.Lookup(topic, 0)
	tell(map[string]any{
		"nodes":      len(nodes),
		"refused":    refused,
		"partitions": len(topics[topic].Partitions),
		"retention":  retention,
		"offsets":    []int64{start.Offset, end.Offset},
		"group":      []any{described[group].State, listed, remains},
		"exists":     left.Has(topic),
	})
	client.Close()
}

func retentionOf(admin *kadm.Client, topic string) string {
	configs, err := admin.DescribeTopicConfigs(background, topic)
	must(err)
	for _, config := range configs[0].Configs {
		if config.Key == "retention.ms" {
			return config.MaybeValue()
		}
	}
	return ""
}

func lists(admin *kadm.Client, group string) bool {
	groups, err := admin.ListGroups(background)
	must(err)
	_, found := groups[group]
	return found
}

// all reads a topic from its start until there were so many records.
func all(servers kgo.Opt, topic string, count int) []*kgo.Record {
	client := connect(
		servers, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
	)
	defer client.Close()
	found := []*kgo.Record{}
	for len(found) < count {
		fetches := client.PollFetches(background)
		must(fetches.Err())
		found = append(found, fetches.Records()...)
	}
	return found
}

func connect(options ...kgo.Opt) *kgo.Client {
	if told, there := os.LookupEnv("CLIENT_SASL"); there {
		words := strings.SplitN(told, " ", 3)
		user, password := words[1], words[2]
		mechanism := map[string]sasl.Mechanism{
			"PLAIN":         plain.Auth{User: user, Pass: password}.AsMechanism(),
			"SCRAM-SHA-256": scram.Auth{User: user, Pass: password}.AsSha256Mechanism(),
			"SCRAM-SHA-512": scram.Auth{User: user, Pass: password}.AsSha512Mechanism(),
		}[words[0]]
		options = append(options, kgo.SASL(mechanism))
	}
	backoff := kgo.RetryBackoffFn(func(int) time.Duration { return 100 * time.Millisecond })
	client, err := kgo.NewClient(append(options, backoff, kgo.MetadataMinAge(100*time.Millisecond))...)
	must(err)
	return client
}

func inputEnds() <-chan struct{} {
	over := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(over)
	}()
	return over
}

// now is the system's monotonic clock, which Go itself does not show.
func now() float64 {
	var at syscall.Timespec
	_, _, _ = syscall.Syscall(syscall.SYS_CLOCK_GETTIME, clockMonotonic, uintptr(unsafe.Pointer(&at)), 0)
	return float64(at.Sec) + float64(at.Nsec)/1e9
}

func say(form string, values ...any) {
	saying.Lock()
	defer saying.Unlock()
	fmt.Printf(form+"\n", values...)
}

func tell(found any) {
	text, err := json.Marshal(found)
	must(err)
	say("%s", text)
}

func number(word string) int {
	found, err := strconv.Atoi(word)
	must(err)
	return found
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
