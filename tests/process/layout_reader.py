#!/usr/bin/env python3
"""A reader that was written from docs/layout.md alone, to show that the document is enough.

usage: layout_reader.py INSTANCE scan           one snapshot: a line for each entry, and each one looked up as well
       layout_reader.py INSTANCE get HEX...     point reads of keys in hexadecimal digits
       layout_reader.py INSTANCE pairs ROUNDS   point reads and snapshots of the keys pair/a and pair/b, in turns

For x86-64, where an aligned 8-byte load is an acquire; others need a fence before the stamp is checked.
"""
import ctypes
import fcntl
import mmap
import os
import struct
import sys

M64 = (1 << 64) - 1
PAGE = 4096
INT64, FLOAT64, BYTES = 1, 2, 3
READABLE = (INT64, FLOAT64, BYTES)
HAS_EXPIRY, HAS_VERSION, HAS_SOURCE_TIME, HAS_STALE_AFTER, EPHEMERAL = (1 << bit for bit in range(37, 42))
OPTIONAL = (HAS_EXPIRY, HAS_VERSION, HAS_SOURCE_TIME, HAS_STALE_AFTER)
TRIES = 8


class Damaged(Exception):
    """Out of bounds or nonsense; when the stamp has changed meanwhile, only a guess that failed."""


class Moved(Exception):
    """The merger writes this buffer now: begin again."""


def check(holds, what):
    if not holds:
        raise Damaged(what)


def words_of(byte_count):
    return (byte_count + 7) // 8


# --- XXH3, 64 bits, with seed

P32_1, P32_2, P32_3 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
P1, P2, P3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
P4, P5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e"
    "2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e")


def u64(data, at):
    return int.from_bytes(data[at:at + 8], "little")


def u32(data, at):
    return int.from_bytes(data[at:at + 4], "little")


def swap(value, size):
    return int.from_bytes(value.to_bytes(size, "little"), "big")


def rotate(value, bits):
    return (value << bits | value >> (64 - bits)) & M64


def fold(a, b):
    product = a * b
    return (product ^ product >> 64) & M64


def avalanche(h):
    h = (h ^ h >> 37) * 0x165667919E3779F9 & M64
    return h ^ h >> 32


def avalanche_64(h):
    h = (h ^ h >> 33) * P2 & M64
    h = (h ^ h >> 29) * P3 & M64
    return h ^ h >> 32


def mix16(data, at, secret_at, seed):
    return fold(u64(data, at) ^ (u64(SECRET, secret_at) + seed & M64),
                u64(data, at + 8) ^ (u64(SECRET, secret_at + 8) - seed & M64))


def hash_to_16(key, seed):
    n = len(key)
    if n > 8:
        low = u64(key, 0) ^ ((u64(SECRET, 24) ^ u64(SECRET, 32)) + seed & M64)
        high = u64(key, n - 8) ^ ((u64(SECRET, 40) ^ u64(SECRET, 48)) - seed & M64)
        return avalanche(n + swap(low, 8) + high + fold(low, high) & M64)
    if n >= 4:
        seed ^= swap(seed & 0xFFFFFFFF, 4) << 32
        h = (u32(key, n - 4) + (u32(key, 0) << 32)) ^ ((u64(SECRET, 8) ^ u64(SECRET, 16)) - seed & M64)
        h = (h ^ rotate(h, 49) ^ rotate(h, 24)) * 0x9FB21C651E98DF25 & M64
        h = (h ^ (h >> 35) + n & M64) * 0x9FB21C651E98DF25 & M64
        return h ^ h >> 28
    combined = key[0] << 16 | key[n >> 1] << 24 | key[n - 1] | n << 8
    return avalanche_64(combined ^ ((u32(SECRET, 0) ^ u32(SECRET, 4)) + seed & M64))


def hash_to_240(key, seed):
    n = len(key)
    total = n * P1
    if n <= 128:
        for i in range((n - 1) // 32, -1, -1):
            total += mix16(key, 16 * i, 32 * i, seed) + mix16(key, n - 16 * (i + 1), 32 * i + 16, seed)
        return avalanche(total & M64)
    total += sum(mix16(key, 16 * i, 16 * i, seed) for i in range(8))
    total = avalanche(total & M64)
    total += sum(mix16(key, 16 * i, 16 * (i - 8) + 3, seed) for i in range(8, n // 16))
    total += mix16(key, n - 16, 136 - 17, seed)
    return avalanche(total & M64)


def hash_long(key, seed):
    n = len(key)
    secret = b"".join((u64(SECRET, i) + (-seed if i & 8 else seed) & M64).to_bytes(8, "little")
                      for i in range(0, 192, 8))
    lanes = [P32_3, P1, P2, P3, P4, P32_2, P5, P32_1]

    def accumulate(at, secret_at):
        for i in range(8):
            value = u64(key, at + 8 * i)
            keyed = value ^ u64(secret, secret_at + 8 * i)
            lanes[i ^ 1] = lanes[i ^ 1] + value & M64
            lanes[i] = lanes[i] + (keyed & 0xFFFFFFFF) * (keyed >> 32) & M64

    for stripe in range((n - 1) // 64):
        accumulate(64 * stripe, 8 * (stripe % 16))
        if stripe % 16 == 15:
            lanes = [((lane ^ lane >> 47 ^ u64(secret, 128 + 8 * i)) * P32_1) & M64 for i, lane in enumerate(lanes)]
    accumulate(n - 64, 192 - 64 - 7)
    total = n * P1
    for i in range(4):
        total += fold(lanes[2 * i] ^ u64(secret, 11 + 16 * i), lanes[2 * i + 1] ^ u64(secret, 19 + 16 * i))
    return avalanche(total & M64)


def xxh3(key, seed):
    if len(key) <= 16:
        return hash_to_16(key, seed)
    return hash_to_240(key, seed) if len(key) <= 240 else hash_long(key, seed)


# --- the instance


class Instance:
    def __init__(self, directory):
        control = os.open(directory + "/control", os.O_RDONLY | os.O_CLOEXEC)
        state = os.fstat(control)
        check(state.st_size >= 384 and state.st_blocks * 512 >= 4096, "control is not ready")
        self.control = mmap.mmap(control, state.st_size, mmap.MAP_SHARED, mmap.PROT_READ)
        self.control_words = memoryview(self.control)[:384].cast("Q")
        identity = self.control[:192]
        (magic, major, minor, required, _, control_bytes, snapshot_bytes) = struct.unpack_from("<8sIIQQQQ", identity)
        check(magic == b"SHMCTRL1", "magic")
        check(major == 2 and required & ~1 == 0, f"layout {major}.{minor}, features {required:#x}")
        self.pins = self.open_pins(directory) if required & 1 else None
        (self.hash_seed, _, self.buffer_offset, self.buffer_stride) = struct.unpack_from("<QQQQ", identity, 80)
        (self.buffer_count, ring_count_max, first_page, statistic_count) = struct.unpack_from("<IIII", identity, 112)
        (feed_offset, feed_records, names, values, rings) = struct.unpack_from("<QQQQQ", identity, 128)
        self.fd = os.open(directory + "/snapshot", os.O_RDONLY | os.O_CLOEXEC)
        check(control_bytes <= state.st_size and snapshot_bytes <= os.fstat(self.fd).st_size, "sizes of the files")
        check(2 <= self.buffer_count <= 8 and 1 <= ring_count_max <= 4096, "counts")
        check(self.buffer_stride % PAGE == 0 and self.buffer_offset % PAGE == 0, "alignment")
        check(self.buffer_stride <= 64 << 30, "size of a buffer")
        check(self.buffer_offset + self.buffer_count * self.buffer_stride <= snapshot_bytes, "buffers")
        check(first_page == 2 and first_page < self.buffer_stride // PAGE, "first_page")
        check(feed_records > 0 and feed_records & (feed_records - 1) == 0 and feed_offset % 64 == 0, "feed")
        check(feed_offset + 16 * feed_records <= self.buffer_offset, "feed")
        for offset, size in ((names, 128 * statistic_count), (values, 8 * statistic_count),
                             (rings, 128 * ring_count_max)):
            check(offset % 64 == 0 and offset + size <= control_bytes, "arrays of control")
        self.snapshot = memoryview(mmap.mmap(self.fd, snapshot_bytes, mmap.MAP_SHARED, mmap.PROT_READ))

    def current(self):
        word = self.control_words[24]
        epoch, buffer = word >> 3, word & 7
        check(epoch != 0 and buffer < self.buffer_count, "epoch word")
        return epoch, buffer

    def is_intact(self, epoch, buffer):
        return self.control_words[32 + buffer] == epoch

    def is_kept(self, epoch, pinned):
        return self.control_words[32 + pinned] & ~(1 << 63) == epoch

    def buffer(self, number):
        begin = self.buffer_offset + number * self.buffer_stride
        return Buffer(self.snapshot[begin:begin + self.buffer_stride].cast("Q"), self.hash_seed)

    def read(self, take):
        """Runs `take(buffer)` until the buffer was intact behind it; after some tries on a pinned one."""
        for _ in range(TRIES):
            epoch, number = self.current()
            try:
                result, damage = take(self.buffer(number)), None
            except Damaged as error:
                result, damage = None, error
            if self.is_intact(epoch, number):
                if damage:
                    raise damage
                return result
        return self.read_pinned(take)

    def read_pinned(self, take):
        while True:
            epoch, number = self.current()
            self.announce()
            self.lock(number, fcntl.F_RDLCK)
            try:
                if self.is_intact(epoch, number):
                    buffer = self.buffer(number)
                    check(buffer.words[0] == epoch, "epoch of the buffer")
                    result = take(buffer)
                    if self.is_kept(epoch, number):
                        return result
            finally:
                self.lock(number, fcntl.F_UNLCK)

    def open_pins(self, directory):
        fd = os.open(directory + "/pins", os.O_RDWR | os.O_CLOEXEC)
        return (ctypes.c_uint32 * 1024).from_buffer(mmap.mmap(fd, 4096, mmap.MAP_SHARED))

    def announce(self):
        """The kernel adds 1, and its call is a full fence."""
        if self.pins is None:
            return
        wake_op, everybody, add_one = 5, 2**31 - 1, 1 << 28 | 1 << 12
        number = {"x86_64": 202, "aarch64": 98}[os.uname().machine]
        word = ctypes.c_void_p(ctypes.addressof(self.pins))
        result = ctypes.CDLL(None, use_errno=True).syscall(number, word, wake_op, everybody, None, word, add_one)
        check(result >= 0, f"a pin cannot be announced: {os.strerror(ctypes.get_errno())}")

    def lock(self, byte, kind):
        fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, struct.pack("hh4xqqi4x", kind, os.SEEK_SET, byte, 1, 0))


class Entry:
    def __init__(self, key, kind, value, epoch, version, expiry, ephemeral):
        self.key, self.kind, self.value = key, kind, value
        self.epoch, self.version, self.expiry, self.ephemeral = epoch, version, expiry, ephemeral

    def __str__(self):
        if self.kind == BYTES:
            value = "bytes " + self.value.hex()
        else:
            value = f"int64 {self.value}" if self.kind == INT64 else f"float64 {self.value:016x}"
        return (f"{self.key.hex()} {value} epoch={self.epoch} version={self.version} expiry={self.expiry} "
                f"ephemeral={int(self.ephemeral)}")


class Buffer:
    """A buffer as words. Nothing is touched before it was found to be in bounds."""

    def __init__(self, words, hash_seed):
        self.words, self.hash_seed = words, hash_seed
        self.page_count = min(words[4], len(words) * 8 // PAGE)

    def take(self, at, byte_count):
        check(at % 8 == 0 and at + 8 * words_of(byte_count) <= self.page_count * PAGE, "bytes out of bounds")
        return self.words[at // 8:at // 8 + words_of(byte_count)].tobytes()[:byte_count]

    def half(self, at):
        """The u32 at `at`."""
        check(at + 4 <= self.page_count * PAGE, "out of bounds")
        return self.words[at // 8] >> at % 8 * 8 & 0xFFFFFFFF

    def segment(self, hash_):
        """Where the segment of a hash begins: by the directory, then by nodes."""
        depth, line = self.words[3] & 0xFF, self.words[3] >> 8
        check(depth <= 21 and 64 * line + (4 << depth) <= self.page_count * PAGE, "directory")
        entry = self.half(64 * line + 4 * (hash_ & (1 << depth) - 1))
        for _ in range(4):
            page, level = entry & 0xFFFFFF, entry >> 24 & 3
            check(0 < page < self.page_count, "a page of the index")
            if level == 0:
                return page * PAGE
            entry = self.half(page * PAGE + 4 * (hash_ >> 10 * (level - 1) & 1023))
        raise Damaged("nodes")

    def line(self, at):
        head = self.take(at, 16)
        return head[:12], head[12]

    def slot_units(self, page):
        """Of a slab; of another page 0."""
        part = page // 4096 * 4096 or 1
        return self.words[(part * PAGE + page % 4096) // 8] >> page % 8 * 8 & 0xFF

    def entry(self, at, end):
        """The entry in the slot at `at`, which ends before `end`; nothing when its type is not known."""
        check(at + 24 <= end, "slot")
        head, epoch = self.words[at // 8], self.words[at // 8 + 1]
        key_bytes, value_bytes, kind = (head & 0xFFF) + 1, head >> 12 & 0x1FFFFF, head >> 33 & 0xF
        check(kind != 0 and value_bytes <= 1 << 20, "head")
        check(kind not in (INT64, FLOAT64) or value_bytes == 8, "head of a number")
        present = [flag for flag in OPTIONAL if head & flag]
        k = 2 if key_bytes > 1008 else words_of(key_bytes)
        is_value_in_block = words_of(value_bytes) + k + len(present) > 252
        v = 1 if is_value_in_block else words_of(value_bytes)
        check(at + 16 + 8 * (v + k + len(present)) <= end, "words of a slot")
        words = self.words[at // 8 + 2:at // 8 + 2 + v + k + len(present)]
        key = self.take(words[v] if key_bytes > 1008 else at + 16 + 8 * v, key_bytes)
        value = self.take(words[0] if is_value_in_block else at + 16, value_bytes)
        if kind in (INT64, FLOAT64):
            value = struct.unpack("<q" if kind == INT64 else "<Q", value)[0]
        if key_bytes > 1008:
            check(words[v + 1] == xxh3(key, self.hash_seed), "hash of a key in a block")
        optional = dict(zip(present, words[v + k:]))
        return Entry(key, kind, value, epoch, optional.get(HAS_VERSION, 0), optional.get(HAS_EXPIRY, 0),
                     head & EPHEMERAL != 0)

    def find(self, key):
        hash_ = xxh3(key, self.hash_seed)
        segment = self.segment(hash_)
        line = hash_ >> 32 & 63
        tag = hash_ >> 56 or 1
        for _ in range(64):
            tags, overflow_count = self.line(segment + 64 * line)
            for cell in range(12):
                if tags[cell] != tag:
                    continue
                slot = 16 * self.half(segment + 64 * line + 16 + 4 * cell) + 8
                check(slot + 24 <= self.page_count * PAGE, "place")
                if (self.words[slot // 8] & 0xFFF) + 1 == len(key):
                    entry = self.entry(slot, self.page_count * PAGE)
                    if entry.key == key:
                        return entry if entry.kind in READABLE else None
            if overflow_count == 0:
                return None
            line = (line + 1) % 64
        return None

    def entries(self):
        bytes_left = self.page_count * PAGE
        for page in range(2, self.page_count):
            units = self.slot_units(page)
            if units == 0:
                continue
            check(2 <= units <= 127, "map")
            for i in range(255 // units):
                at = page * PAGE + 8 + 16 * units * i
                if self.words[at // 8] == 0:
                    continue
                entry = self.entry(at, at + 16 * units)
                if entry.kind not in READABLE:
                    continue
                bytes_left -= len(entry.key) + (len(entry.value) if entry.kind == BYTES else 8)
                check(bytes_left >= 0, "more bytes than the buffer has")
                yield entry


def scan(buffer):
    found = list(buffer.entries())
    check(len(found) == buffer.words[2], "entry_count")
    for entry in found:
        check(str(buffer.find(entry.key)) == str(entry), "an entry that is not found by its key")
    return sorted(str(entry) for entry in found)


def get_pair(buffer):
    return [entry and entry.value for entry in (buffer.find(b"pair/a"), buffer.find(b"pair/b"))]


def main(arguments):
    instance = Instance(arguments[0])
    if arguments[1] == "scan":
        print("\n".join(instance.read_pinned(scan)))
    elif arguments[1] == "get":
        for key in map(bytes.fromhex, arguments[2:]):
            print(instance.read(lambda buffer, key=key: buffer.find(key)))
    elif arguments[1] == "pairs":
        rounds = [(instance.read if i % 2 else instance.read_pinned)(get_pair) for i in range(int(arguments[2]))]
        print(all(a == b for a, b in rounds), len({a for a, _ in rounds}), rounds[0][0] != rounds[-1][0])


if __name__ == "__main__":
    assert xxh3(b"pump/7/rpm", 0x0123456789ABCDEF) == 0x6373DCCFEABAE1E7
    assert xxh3(b"abcdefghijklmnopqrstuvwx", 0x0123456789ABCDEF) == 0x3D3658518B0CBDEF
    main(sys.argv[1:])
