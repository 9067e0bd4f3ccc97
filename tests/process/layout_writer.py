#!/usr/bin/env python3
"""A writer of rings that was written from docs/layout.md alone, to show that the document is enough.

usage: layout_writer.py INSTANCE COMMANDS

Each line of the file COMMANDS is a mutation, and what is joined by ";" is a batch:

    OPERATION KEY [VALUE] [ttl=NANOSECONDS] [version=NUMBER] [ephemeral] [id]

OPERATION is set, erase, add, max or min; KEY is text; VALUE is i:INTEGER, f:FLOAT or b:HEX. With `id`, the key is named
by an id, and gets one at its first such use. "raw HEX" is a record as it is. At the end it waits until everything is
merged, and prints the ring's verdict, how many mutations were applied, and those rejected, by reason.

For x86-64, where an aligned 8-byte store is a release.
"""
import ctypes
import fcntl
import mmap
import os
import secrets
import struct
import sys
import time

HEADER, DATA, NAMES = 4096, 65536, 16384
OPERATIONS = {"set": 1, "erase": 2, "add": 3, "max": 4, "min": 5}
CONTINUES, EPHEMERAL, TTL, VERSION, BY_ID = 1, 2, 4, 8, 32
F_OFD_SETLK = 37
AT_FDCWD, AT_SYMLINK_FOLLOW = -100, 0x400
FUTEX_WAKE_OP, FUTEX_OP_ADD_CMP_EQ = 5, 1 << 28
SYS_FUTEX, SYS_MEMBARRIER, REGISTER_GLOBAL_EXPEDITED = 202, 324, 4
SECONDS = 20

libc = ctypes.CDLL(None, use_errno=True)


def padded(data):
    return data + bytes(-len(data) % 8)


def give_name(file, path):
    """As os.link would that follows symbolic links, and does not."""
    if libc.linkat(AT_FDCWD, b"/proc/self/fd/%d" % file, AT_FDCWD, os.fsencode(path), AT_SYMLINK_FOLLOW) != 0:
        raise OSError(ctypes.get_errno(), "linkat", path)


class Doorbell:
    def __init__(self, path):
        self.file = os.open(path, os.O_RDWR)
        self.memory = mmap.mmap(self.file, 4096)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))

    def add(self, offset):
        """Adds 1 to a word and wakes who sleeps on it: the kernel does, for others may truncate the file."""
        word = ctypes.c_void_p(self.base + offset)
        operation = FUTEX_OP_ADD_CMP_EQ | 1 << 12
        libc.syscall(SYS_FUTEX, word, FUTEX_WAKE_OP, 2**31 - 1, None, word, operation)


class Ring:
    def __init__(self, instance):
        with open(os.path.join(instance, "control"), "rb") as control:
            head = control.read(64)
        magic, major = struct.unpack_from("<8sI", head)
        assert magic == b"SHMCTRL1" and major == 2, "another layout"
        control_file = os.open(os.path.join(instance, "control"), os.O_RDONLY)
        self.control = mmap.mmap(control_file, 4096, prot=mmap.PROT_READ)
        rings = os.path.join(instance, "writers", "rings")
        self.file = os.open(rings, os.O_TMPFILE | os.O_RDWR, 0o660)
        os.fchmod(self.file, 0o660)
        fcntl.fcntl(self.file, F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0))
        os.ftruncate(self.file, HEADER + DATA + NAMES)
        os.posix_fallocate(self.file, 0, HEADER + DATA + NAMES)
        self.memory = mmap.mmap(self.file, HEADER + DATA + NAMES)
        self.tail, self.ids, self.names_begin, self.rung_phase = 0, {}, NAMES, 0
        ring_id = secrets.randbits(64) or 1
        self.memory[0:64] = struct.pack("<8sIIQQ16sIIII", b"SHMRING1", 2, 0, ring_id, DATA, head[48:64], os.getpid(),
                                        os.geteuid(), 0, NAMES)
        self.memory[64:128] = struct.pack("<48sQQ", b"layout_writer", time.time_ns(), 1)
        give_name(self.file, os.path.join(rings, f"{ring_id:016x}"))
        libc.syscall(SYS_MEMBARRIER, REGISTER_GLOBAL_EXPEDITED, 0)
        self.doorbell = Doorbell(os.path.join(instance, "writers", "doorbell"))
        self.doorbell.add(4)
        self.wake()

    def word(self, offset):
        return ctypes.c_uint64.from_buffer(self.memory, offset)

    def wake(self):
        (phase,) = struct.unpack_from("<Q", self.control, 384)
        if phase % 2 == 1 and phase != self.rung_phase:
            self.rung_phase = phase
            self.doorbell.add(0)

    def id_of(self, key):
        """The name, its word of the index, and only then a record."""
        if key not in self.ids:
            number = len(self.ids)
            self.names_begin -= len(padded(key))
            assert 8 * (number + 1) <= self.names_begin, "no room for another name"
            at = HEADER + DATA
            self.memory[at + self.names_begin:at + self.names_begin + len(padded(key))] = padded(key)
            self.word(at + 8 * number).value = self.names_begin | len(key) << 32
            self.ids[key] = number
            self.word(136).value = number + 1
        return self.ids[key]

    def push(self, records):
        deadline = time.monotonic() + SECONDS
        while self.tail + len(records) > self.word(384).value + DATA:
            assert time.monotonic() < deadline, "nobody makes room"
            time.sleep(0.001)
        at = self.tail % DATA
        first = records[:DATA - at]
        self.memory[HEADER + at:HEADER + at + len(first)] = first
        self.memory[HEADER:HEADER + len(records) - len(first)] = records[len(first):]
        self.tail += len(records)
        self.word(128).value = self.tail
        self.wake()

    def flush(self):
        deadline = time.monotonic() + SECONDS
        while self.word(384).value < self.tail:
            (verdict,) = struct.unpack_from("<I", self.memory, 392)
            if verdict == 3:
                return
            assert time.monotonic() < deadline, "it is not merged"
            self.wake()
            time.sleep(0.001)


def value_of(text):
    """Its type, and its bytes."""
    kind, text = text.split(":", 1)
    if kind == "i":
        return 1, struct.pack("<q", int(text))
    if kind == "f":
        return 2, struct.pack("<d", float(text))
    return 3, bytes.fromhex(text)


def record_of(ring, text, flags):
    operation, key, *rest = text.split(" ")
    if operation == "raw":
        return bytes.fromhex(key)
    key, kind, value, optional, by_id = key.encode(), 0, b"", b"", False
    for word in rest:
        name, _, argument = word.partition("=")
        if name == "ttl":
            flags |= TTL
            optional += struct.pack("<Q", int(argument))
        elif name == "version":
            flags |= VERSION
            optional += struct.pack("<Q", int(argument))
        elif name == "ephemeral":
            flags |= EPHEMERAL
        elif name == "id":
            by_id = True
        else:
            kind, value = value_of(word)
    kind = OPERATIONS[operation] | kind << 4
    if by_id:
        return struct.pack("<IHBB", ring.id_of(key), len(value), kind, flags | BY_ID) + optional + padded(value)
    return struct.pack("<IHBB", len(value), len(key), kind, flags) + optional + padded(key) + padded(value)


def main(instance, commands):
    ring = Ring(instance)
    for line in open(commands, encoding="utf-8"):
        batch = line.strip().split(";")
        last = len(batch) - 1
        ring.push(b"".join(record_of(ring, text, CONTINUES if i < last else 0) for i, text in enumerate(batch)))
    ring.flush()
    (verdict,) = struct.unpack_from("<I", ring.memory, 392)
    rejected = struct.unpack_from("<8Q", ring.memory, 448)
    print(verdict, ring.word(400).value, *rejected)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
