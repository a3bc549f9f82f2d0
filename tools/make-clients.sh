#!/bin/sh
# Fetch Kafka clients of other languages by name, into the folder $1, and build the programs of tests/kafka_side/clients
# that test with them. A language whose toolchain is not there is left out; the tests of it are then skipped. What is
# there already and not older than its sources is kept.
set -u

folder=$(mkdir -p "$1" && cd "$1" && pwd) || exit 1
sources=$(cd "$(dirname "$0")/../tests/kafka_side/clients" && pwd) || exit 1
failed=0

# stale LANGUAGE: is what was built for it older than a source, or not there?
stale() {
    [ ! -e "$folder/$1/.ready" ] || [ -n "$(find "$sources/$1" -newer "$folder/$1/.ready" | head -n 1)" ]
}

has() {
    for tool in "$@"; do
        command -v "$tool" >/dev/null 2>&1 || return 1
    done
}

make_node() {
    cp "$sources/node/package.json" "$folder/node/" &&
        npm install --prefix "$folder/node" --no-package-lock --no-audit --no-fund --ignore-scripts --silent
}

make_java() {
    rm -rf "$folder/java/lib" "$folder/java/classes" &&
        mvn --batch-mode --quiet --file "$sources/java/pom.xml" dependency:copy-dependencies \
            -DoutputDirectory="$folder/java/lib" &&
        javac -d "$folder/java/classes" -classpath "$folder/java/lib/*" "$sources/java/Client.java"
}

make_go() {
    (cd "$sources/go" && go build -o "$folder/go/client" .)
}

# offer LANGUAGE TOOL...: build it, if it is stale and its tools are there.
offer() {
    language=$1
    shift
    stale "$language" || return 0
    if ! has "$@"; then
        printf '%s: left out, it needs %s\n' "$language" "$*"
        return 0
    fi
    mkdir -p "$folder/$language"
    rm -f "$folder/$language/.ready"
    if "make_$language"; then
        touch "$folder/$language/.ready"
        printf '%s: ready\n' "$language"
    else
        printf '%s: failed\n' "$language" >&2
        failed=1
    fi
}

offer node node npm
offer java java javac mvn
offer go go
exit "$failed"
