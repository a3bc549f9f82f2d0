"""The same without asyncio, for scripts: python examples/sync.py [HOST:PORT,…]"""

import sys

import corgi

CORGI_DEV = "127.0.0.1:7450,127.0.0.1:7451,127.0.0.1:7452"  # one of them may be down


def main(servers: str) -> None:
    with corgi.connect_sync(servers) as mq:
        mq.topics.create("letters", partitions=1)
        for letter in "abc":
            receipt = mq.publish("letters", letter)
            print(f"{letter} is stored at offset {receipt.offset}")
        with mq.subscribe("letters", start="earliest") as subscription:
            for message in subscription:
                print(f"read {message.value!r}")
                if message.offset == 2:
                    break


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else CORGI_DEV)
