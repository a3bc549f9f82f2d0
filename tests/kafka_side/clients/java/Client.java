// Kafka's own client for Java, for the tests: what it does and writes is told in ../README.md.

import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.GroupListing;
import org.apache.kafka.clients.admin.ListOffsetsResult.ListOffsetsResultInfo;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.consumer.ConsumerGroupMetadata;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.TopicExistsException;

public final class Client {
    private static final int PAUSE_MS = 5;
    private static final Duration POLL = Duration.ofMillis(200);

    private final String servers;
    private final String topic;

    private Client(String servers, String topic) {
        this.servers = servers;
        this.topic = topic;
    }

    public static void main(String[] words) throws Exception {
        Client client = new Client(words[1], words[2]);
        switch (words[0]) {
            case "publish" -> client.publish();
            case "read" -> client.read();
            case "copy" -> client.copy(words[3], Integer.parseInt(words[4]));
            case "member" -> client.member(words[3]);
            case "transact" -> client.transact(words[3], Integer.parseInt(words[4]));
            case "administer" -> client.administer();
            default -> throw new IllegalArgumentException(words[0]);
        }
    }

    private void publish() throws Exception {
        ConcurrentLinkedQueue<String> failed = new ConcurrentLinkedQueue<>();
        Thread input = inputEnds();
        int sent = 0;
        try (KafkaProducer<String, String> producer = producer(Map.of())) {
            while (input.isAlive()) {
                int number = sent++;
                producer.send(new ProducerRecord<>(topic, 0, null, String.valueOf(number)), (place, error) -> {
                    if (error != null) {
                        failed.add(error.toString());
                    } else {
                        say(number + " " + place.offset() + " " + now());
                    }
                });
                Thread.sleep(PAUSE_MS);
            }
        }
        say(json(Map.of("sent", sent, "failed", List.copyOf(failed))));
    }

    private void read() {
        try (KafkaConsumer<String, String> consumer = consumer(Map.of())) {
            List<TopicPartition> first = List.of(new TopicPartition(topic, 0));
            consumer.assign(first);
            consumer.seekToBeginning(first);
            while (true) {
                for (ConsumerRecord<String, String> record : consumer.poll(POLL)) {
                    if (record.value().equals("end")) {
                        say(json(Map.of("sent", 0, "failed", List.of())));
                        return;
                    }
                    say(record.value() + " " + record.offset() + " " + now());
                }
            }
        }
    }

    private void copy(String codec, int count) throws Exception {
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        try (KafkaProducer<String, String> producer = producer(Map.of("compression.type", codec, "linger.ms", 5))) {
            for (int i = 0; i < count; i++) {
                sent.add(producer.send(new ProducerRecord<>(topic, "key-" + i % 7, "value-" + i)));
            }
        }
        List<Object> places = new ArrayList<>();
        for (Future<RecordMetadata> one : sent) {
            places.add(List.of(one.get().partition(), one.get().offset()));
        }
        List<Object> found = new ArrayList<>();
        all(count, record -> found.add(List.of(record.key(), record.value())));
        say(json(Map.of("places", places, "read", found)));
    }

    private void member(String group) throws Exception {
        Thread input = inputEnds();
        Map<String, Object> settings =
                Map.of("group.id", group, "session.timeout.ms", 10_000, "heartbeat.interval.ms", 300);
        try (KafkaConsumer<String, String> consumer = consumer(settings)) {
            consumer.subscribe(List.of(topic), new ConsumerRebalanceListener() {
                @Override
                public void onPartitionsRevoked(Collection<TopicPartition> partitions) {}

                @Override
                public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
                    say("holds" + consumer.assignment().stream()
                            .map(one -> " " + one.partition()).sorted().collect(Collectors.joining()));
                }
            });
            while (input.isAlive()) {
                for (ConsumerRecord<String, String> record : consumer.poll(POLL)) {
                    say("read " + record.partition() + " " + record.offset() + " " + record.value());
                }
                consumer.commitSync();
            }
        }
    }

    private void transact(String group, int count) throws Exception {
        Map<String, Object> settings = Map.of("transactional.id", "id-" + topic);
        ConsumerGroupMetadata metadata;
        try (KafkaConsumer<String, String> outsider = consumer(Map.of("group.id", group))) {
            metadata = outsider.groupMetadata();
        }
        int expected = 1;
        boolean fenced = false;
        try (KafkaProducer<String, String> producer = producer(settings)) {
            producer.initTransactions();
            for (int number = 0; number < count; number++) {
                producer.beginTransaction();
                for (int partition = 0; partition < 3; partition++) {
                    producer.send(new ProducerRecord<>(topic, partition, null, number + "-" + partition));
                }
                producer.sendOffsetsToTransaction(
                        Map.of(new TopicPartition(topic, 0), new OffsetAndMetadata(number)),
                        metadata);
                if (number % 2 == 1) {
                    producer.flush();
                    producer.abortTransaction();
                } else {
                    producer.commitTransaction();
                    expected += 3;
                }
            }
            producer.beginTransaction();
            producer.send(new ProducerRecord<>(topic, 0, null, "zombie")).get();
            try (KafkaProducer<String, String> heir = producer(settings)) {
                heir.initTransactions();
                heir.beginTransaction();
                heir.send(new ProducerRecord<>(topic, 0, null, "heir"));
                heir.commitTransaction();
            }
            try {
                producer.commitTransaction();
            } catch (KafkaException error) {
                fenced = true;
            }
        }
        List<Object> found = new ArrayList<>();
        all(expected, record -> found.add(record.value()));
        long offset;
        try (Admin admin = admin()) {
            offset = admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get()
                    .get(new TopicPartition(topic, 0)).offset();
        }
        say(json(Map.of("read", found, "offset", offset, "fenced", fenced)));
    }

    private void administer() throws Exception {
        Map<String, Object> found = new LinkedHashMap<>();
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        TopicPartition first = new TopicPartition(topic, 0);
        String group = "group-" + topic;
        try (Admin admin = admin()) {
            NewTopic make = new NewTopic(topic, 2, (short) 3).configs(Map.of("retention.ms", "60000"));
            admin.createTopics(List.of(make)).all().get();
            try {
                admin.createTopics(List.of(make)).all().get();
                found.put("refused", "made again");
            } catch (ExecutionException error) {
                boolean exists = error.getCause() instanceof TopicExistsException;
                found.put("refused", exists ? "TOPIC_ALREADY_EXISTS" : error.getCause().toString());
            }
            admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(4))).all().get();
            found.put("partitions",
                    admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions().size());
            String before = retention(admin, resource);
            AlterConfigOp set =
                    new AlterConfigOp(new ConfigEntry("retention.ms", "120000"), AlterConfigOp.OpType.SET);
            admin.incrementalAlterConfigs(Map.of(resource, List.of(set))).all().get();
            try (KafkaProducer<String, String> producer = producer(Map.of())) {
                for (int value = 1; value <= 5; value++) {
                    producer.send(new ProducerRecord<>(topic, 0, null, String.valueOf(value)));
                }
            }
            admin.deleteRecords(Map.of(first, RecordsToDelete.beforeOffset(2))).all().get();
            found.put("offsets", List.of(offset(admin, first, OffsetSpec.earliest()),
                    offset(admin, first, OffsetSpec.latest())));
            admin.alterConsumerGroupOffsets(group, Map.of(first, new OffsetAndMetadata(3))).all().get();
            String state = admin.describeConsumerGroups(List.of(group)).all().get().get(group).groupState().toString();
            boolean listed = lists(admin, group);
            admin.deleteConsumerGroups(List.of(group)).all().get();
            found.put("group", List.of(state, listed, lists(admin, group)));
            found.put("nodes", admin.describeCluster().nodes().get().size());
            found.put("retention", List.of(before, retention(admin, resource)));
            admin.deleteTopics(List.of(topic)).all().get();
            found.put("exists", admin.listTopics().names().get().contains(topic));
        }
        say(json(found));
    }

    private static String retention(Admin admin, ConfigResource resource) throws Exception {
        return admin.describeConfigs(List.of(resource)).all().get().get(resource).get("retention.ms").value();
    }

    private static long offset(Admin admin, TopicPartition partition, OffsetSpec which) throws Exception {
        ListOffsetsResultInfo told = admin.listOffsets(Map.of(partition, which)).all().get().get(partition);
        return told.offset();
    }

    private static boolean lists(Admin admin, String group) throws Exception {
        return admin.listGroups().all().get().stream().map(GroupListing::groupId).anyMatch(group::equals);
    }

    private interface Take {
        void record(ConsumerRecord<String, String> record);
    }

    /** Reads the three partitions from their start until there were so many records. */
    private void all(int count, Take take) {
        try (KafkaConsumer<String, String> consumer = consumer(Map.of("isolation.level", "read_committed"))) {
            List<TopicPartition> partitions =
                    List.of(new TopicPartition(topic, 0), new TopicPartition(topic, 1), new TopicPartition(topic, 2));
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            for (int left = count; left > 0; ) {
                for (ConsumerRecord<String, String> record : consumer.poll(POLL)) {
                    take.record(record);
                    left--;
                }
            }
        }
    }

    private KafkaProducer<String, String> producer(Map<String, Object> more) {
        return new KafkaProducer<>(settings("serializer", "StringSerializer", more));
    }

    private KafkaConsumer<String, String> consumer(Map<String, Object> more) {
        Properties settings = settings("deserializer", "StringDeserializer", more);
        settings.put("enable.auto.commit", false);
        settings.put("auto.offset.reset", "earliest");
        return new KafkaConsumer<>(settings);
    }

    private Admin admin() {
        Properties settings = who();
        settings.put("bootstrap.servers", servers);
        return Admin.create(settings);
    }

    private Properties settings(String what, String kind, Map<String, Object> more) {
        Properties settings = who();
        settings.put("bootstrap.servers", servers);
        settings.put("retry.backoff.ms", 100);
        for (String part : List.of("key", "value")) {
            settings.put(part + "." + what, "org.apache.kafka.common.serialization." + kind);
        }
        settings.putAll(more);
        return settings;
    }

    private static Properties who() {
        Properties settings = new Properties();
        String told = System.getenv("CLIENT_SASL");
        if (told != null) {
            String[] words = told.split(" ", 3);
            String module = words[0].equals("PLAIN") ? "plain.PlainLoginModule" : "scram.ScramLoginModule";
            settings.put("security.protocol", "SASL_PLAINTEXT");
            settings.put("sasl.mechanism", words[0]);
            settings.put("sasl.jaas.config", "org.apache.kafka.common.security." + module
                + " required username=\"" + words[1] + "\" password=\"" + words[2] + "\";");
        }
        return settings;
    }

    private static Thread inputEnds() {
        Thread watching = new Thread(() -> {
            try {
                System.in.readAllBytes();
            } catch (java.io.IOException error) {
                // an end as well
            }
        });
        watching.setDaemon(true);
        watching.start();
        return watching;
    }

    private static double now() {
        return System.nanoTime() / (double) TimeUnit.SECONDS.toNanos(1);
    }

    private static synchronized void say(String line) {
        System.out.println(line);
    }

    private static String json(Object value) {
        if (value instanceof Map<?, ?> map) {
            return map.entrySet().stream()
                    .map(one -> json(one.getKey().toString()) + ": " + json(one.getValue()))
                    .collect(Collectors.joining(", ", "{", "}"));
        }
        if (value instanceof Collection<?> many) {
            return many.stream().map(Client::json).collect(Collectors.joining(", ", "[", "]"));
        }
        if (value instanceof String text) {
            return '"' + text.replace("\\", "\\\\").replace("\"", "\\\"").replace("\n", " ") + '"';
        }
        return String.valueOf(value);
    }
}
