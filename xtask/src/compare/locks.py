"""Clients that take and give back locks, each with a session and a connection of its own:
kazoo's recipe on a ZooKeeper, or the same on Synod's JSON door. Prints one line of JSON.

    locks.py kazoo|synod HOST:PORT,... CLIENTS NAMES WARM_UP_S COUNTED_S
"""

import base64
import http.client
import json
import multiprocessing
import random
import sys
import threading
import time

# One interpreter runs one thread at a time.
PROCESSES = 4


class Kazoo:
    def __init__(self, host, names):
        from kazoo.client import KazooClient

        self.client = KazooClient(hosts=host, timeout=40)
        self.client.start(timeout=30)
        self.locks = [self.client.Lock(f"/bench/{name}") for name in range(names)]
        for lock in self.locks:
            self.client.ensure_path(lock.path)

    def pair(self, name):
        self.locks[name].acquire()
        self.locks[name].release()

    def close(self):
        self.client.stop()
        self.client.close()


class Synod:
    def __init__(self, host, names):
        self.connection = http.client.HTTPConnection(host, timeout=60)
        self.names = [base64.b64encode(b"bench/%d" % name).decode() for name in range(names)]
        self.session = self.call("session/open", ttl_s="600", name="bench")["session"]

    def call(self, path, **fields):
        self.connection.request("POST", "/synod/v1/" + path, json.dumps(fields))
        answer = self.connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status} {body!r}")
        return json.loads(body)

    def pair(self, name):
        held = self.call("lock/acquire", name=self.names[name], session=self.session)
        self.call("lock/release", sequencer=held["sequencer"])

    def close(self):
        self.call("session/close", session=self.session)
        self.connection.close()


def client(number, side, names, start, times, errors):
    seed = random.Random(number)
    try:
        count_from, end = start()
        while (begun := time.monotonic()) < end:
            side.pair(seed.randrange(names))
            now = time.monotonic()
            if begun >= count_from and now <= end:
                times.append(now - begun)
    except Exception as e:  # Counted, and told.
        errors.append(repr(e))


def process(kind, hosts, numbers, names, warm_up, counted, ready, results):
    sides = [kind(hosts[n % len(hosts)], names) for n in numbers]
    ready.wait()
    begun = time.monotonic()
    times, errors = [], []

    def start():
        return begun + warm_up, begun + warm_up + counted

    threads = [
        threading.Thread(target=client, args=(n, side, names, start, times, errors))
        for n, side in zip(numbers, sides)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put((times, errors))
    for side in sides:
        side.close()


def main():
    kind = {"kazoo": Kazoo, "synod": Synod}[sys.argv[1]]
    hosts = sys.argv[2].split(",")
    clients, names = int(sys.argv[3]), int(sys.argv[4])
    warm_up, counted = float(sys.argv[5]), float(sys.argv[6])
    ready, results = multiprocessing.Barrier(PROCESSES), multiprocessing.Queue()
    processes = [
        multiprocessing.Process(
            target=process,
            args=(kind, hosts, range(p, clients, PROCESSES), names, warm_up, counted, ready, results),
        )
        for p in range(PROCESSES)
    ]
    for p in processes:
        p.start()
    times, errors = [], []
    for _ in processes:
        some, failed = results.get(timeout=warm_up + counted + 120)
        times += some
        errors += failed
    for p in processes:
        p.join()
    times.sort()
    if not times:
        sys.exit(f"nothing was answered: {errors[:1]}")
    print(
        json.dumps(
            {
                "ok": len(times),
                "failed": len(errors),
                "per_second": len(times) / counted,
                "p50_ms": times[len(times) // 2] * 1e3,
                "p99_ms": times[len(times) * 99 // 100] * 1e3,
                "error": errors[0] if errors else None,
            }
        )
    )


main()
