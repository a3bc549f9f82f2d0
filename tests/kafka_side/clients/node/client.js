// A Kafka client of kafkajs, for the tests: what it does and writes is told in ../README.md.

"use strict";

process.env.KAFKAJS_NO_PARTITIONER_WARNING = "1";
const { CompressionTypes, ConfigResourceTypes, Kafka, logLevel } = require("kafkajs");

const PAUSE_MS = 5;
const FOR_EVER = Number.MAX_SAFE_INTEGER;
// A consumer asks a dead coordinator until its attempts are used up, then begins anew beside its old self, whose session
// has to end first: so few attempts, and a short session.
const IN_GROUP = {
  retry: { initialRetryTime: 100, retries: 3 },
  sessionTimeout: 6_000,
  heartbeatInterval: 300,
  maxWaitTimeInMs: 500,
};

function who() {
  if (!process.env.CLIENT_SASL) return undefined;
  const [mechanism, username, ...password] = process.env.CLIENT_SASL.split(" ");
  return { mechanism: mechanism.toLowerCase(), username, password: password.join(" ") };
}

const kafkaOf = (servers) =>
  new Kafka({
    clientId: "kafkajs",
    brokers: servers.split(","),
    logLevel: logLevel.NOTHING,
    retry: { initialRetryTime: 100, retries: 10 },
    sasl: who(),
  });
const say = (line) => process.stdout.write(line + "\n");
const tell = (found) => process.stdout.write(JSON.stringify(found) + "\n");
const now = () => Number(process.hrtime.bigint()) / 1e9;
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const inputEnds = () =>
  new Promise((resolve) => {
    process.stdin.resume();
    process.stdin.on("end", resolve);
  });

async function publish(servers, topic) {
  const producer = kafkaOf(servers).producer({ idempotent: true, retry: { initialRetryTime: 100, retries: FOR_EVER } });
  await producer.connect();
  let over = false;
  inputEnds().then(() => (over = true));
  const failed = [];
  let sent = 0;
  while (!over) {
    const number = sent++;
    try {
      const [{ baseOffset }] = await producer.send({ topic, acks: -1, messages: [{ partition: 0, value: String(number) }] });
      say(`${number} ${baseOffset} ${now()}`);
    } catch (error) {
      failed.push(String(error));
    }
    await pause(PAUSE_MS);
  }
  await producer.disconnect();
  tell({ sent, failed });
}

// kafkajs reads in groups only: the members of this one are alone in it. Calls ``take`` until that returns true.
async function consume(servers, topic, groupId, take) {
  const consumer = kafkaOf(servers).consumer({ groupId, ...IN_GROUP });
  await consumer.connect();
  await consumer.subscribe({ topics: [topic], fromBeginning: true });
  await new Promise((resolve, reject) => {
    consumer.on(consumer.events.CRASH, ({ payload }) => payload.restart || reject(payload.error));
    const eachMessage = async ({ partition, message }) => {
      if (await take(partition, message)) resolve();
    };
    consumer.run({ autoCommit: false, eachMessage }).catch(reject);
  });
  await consumer.disconnect();
}

// A member that had to join again begins anew, since nothing is committed: what it has seen it leaves out.
async function read(servers, topic) {
  let next = 0;
  await consume(servers, topic, `alone-${process.pid}`, (partition, message) => {
    const value = message.value.toString();
    if (partition !== 0 || Number(message.offset) < next) return false;
    next = Number(message.offset) + 1;
    if (value === "end") return true;
    say(`${value} ${message.offset} ${now()}`);
    return false;
  });
  tell({ sent: 0, failed: [] });
}

async function copy(servers, topic, codec, count) {
  const compression = { none: CompressionTypes.None, gzip: CompressionTypes.GZIP }[codec];
  const producer = kafkaOf(servers).producer({ idempotent: true });
  await producer.connect();
  const messages = [...Array(Number(count)).keys()].map((i) => ({ key: `key-${i % 7}`, value: `value-${i}` }));
  const places = [];
  for (let at = 0; at < messages.length; at += 50) {
    const told = await producer.send({ topic, acks: -1, compression, messages: messages.slice(at, at + 50) });
    told.forEach(({ partition, baseOffset }) => places.push([partition, Number(baseOffset)]));
  }
  await producer.disconnect();
  const found = [];
  await consume(servers, topic, `copy-${process.pid}`, (_, { key, value }) => {
    found.push([key.toString(), value.toString()]);
    return found.length === messages.length;
  });
  tell({ places, read: found });
}

async function member(servers, topic, groupId) {
  const consumer = kafkaOf(servers).consumer({ groupId, ...IN_GROUP });
  consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
    say(["holds", ...(payload.memberAssignment[topic] || [])].join(" "));
  });
  await consumer.connect();
  await consumer.subscribe({ topics: [topic], fromBeginning: true });
  await consumer.run({
    autoCommitThreshold: 1,
    eachMessage: async ({ partition, message }) => say(`read ${partition} ${message.offset} ${message.value}`),
  });
  await inputEnds();
  await consumer.disconnect();
}

async function transact(servers, topic, groupId, count) {
  const kafka = kafkaOf(servers);
  const settings = { transactionalId: `id-${topic}`, idempotent: true, maxInFlightRequests: 1 };
  const producer = kafka.producer(settings);
  await producer.connect();
  const expected = [];
  for (let number = 0; number < Number(count); number++) {
    const transaction = await producer.transaction();
    const messages = [0, 1, 2].map((partition) => ({ partition, value: `${number}-${partition}` }));
    await transaction.send({ topic, acks: -1, messages });
    const partitions = [{ partition: 0, offset: String(number) }];
    await transaction.sendOffsets({ consumerGroupId: groupId, topics: [{ topic, partitions }] });
    if (number % 2) {
      await transaction.abort();
    } else {
      await transaction.commit();
      expected.push(...messages);
    }
  }
  const zombie = await producer.transaction();
  await zombie.send({ topic, acks: -1, messages: [{ partition: 0, value: "zombie" }] });
  const heir = kafka.producer(settings);
  await heir.connect();
  const transaction = await heir.transaction();
  await transaction.send({ topic, acks: -1, messages: [{ partition: 0, value: "heir" }] });
  await transaction.commit();
  let fenced = false;
  await zombie.commit().catch(() => (fenced = true));
  const found = [];
  await consume(servers, topic, `transact-${process.pid}`, (_, { value }) => {
    found.push(value.toString());
    return found.length === expected.length + 1;
  });
  const admin = kafka.admin();
  await admin.connect();
  const [{ partitions }] = await admin.fetchOffsets({ groupId, topics: [topic] });
  await admin.disconnect();
  await heir.disconnect();
  await producer.disconnect();
  tell({ read: found, offset: Number(partitions.find(({ partition }) => partition === 0).offset), fenced });
}

async function administer(servers, topic) {
  const kafka = kafkaOf(servers);
  const admin = kafka.admin();
  await admin.connect();
  const make = { topic, numPartitions: 2, replicationFactor: 3, configEntries: [{ name: "retention.ms", value: "60000" }] };
  await admin.createTopics({ topics: [make] });
  const refused = await admin.createTopics({ topics: [make] }).then(
    (made) => (made ? "made again" : "TOPIC_ALREADY_EXISTS"),
    (error) => error.errors[0].type,
  );
  await admin.createPartitions({ topicPartitions: [{ topic, count: 4 }] });
  const {
    topics: [{ partitions }],
  } = await admin.fetchTopicMetadata({ topics: [topic] });
  const resource = { type: ConfigResourceTypes.TOPIC, name: topic };
  const retention = async () => {
    const { resources } = await admin.describeConfigs({ includeSynonyms: false, resources: [resource] });
    return resources[0].configEntries.find(({ configName }) => configName === "retention.ms").configValue;
  };
  const before = await retention();
  await admin.alterConfigs({
    validateOnly: false,
    resources: [{ ...resource, configEntries: [{ name: "retention.ms", value: "120000" }] }],
  });
  const producer = kafka.producer();
  await producer.connect();
  await producer.send({ topic, messages: [1, 2, 3, 4, 5].map((value) => ({ partition: 0, value: String(value) })) });
  await producer.disconnect();
  await admin.deleteTopicRecords({ topic, partitions: [{ partition: 0, offset: "2" }] });
  const offsets = (await admin.fetchTopicOffsets(topic)).find(({ partition }) => partition === 0);
  const group = `group-${topic}`;
  await admin.setOffsets({ groupId: group, topic, partitions: [{ partition: 0, offset: "3" }] });
  const {
    groups: [{ state }],
  } = await admin.describeGroups([group]);
  const listed = (await admin.listGroups()).groups.some(({ groupId }) => groupId === group);
  await admin.deleteGroups([group]);
  const left = (await admin.listGroups()).groups.some(({ groupId }) => groupId === group);
  const nodes = (await admin.describeCluster()).brokers.length;
  const altered = await retention();
  await admin.deleteTopics({ topics: [topic] });
  const exists = (await admin.listTopics()).includes(topic);
  await admin.disconnect();
  tell({
    nodes,
    refused,
    partitions: partitions.length,
    retention: [before, altered],
    offsets: [Number(offsets.low), Number(offsets.high)],
    group: [state, listed, left],
    exists,
  });
}

const [word, ...words] = process.argv.slice(2);
({ publish, read, copy, member, transact, administer })[word](...words).then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
