"""fdatasync by the kernel alone, through io_uring: no thread of ours, so nothing that waits for the interpreter's lock.

A binding of just this much (io_uring_setup(2), io_uring_enter(2), io_uring_register(2)): one operation in flight, its
end told by an eventfd. Memory order: the kernel reads our entry inside the system call that submits it; we read its
answer only after we read the eventfd that it signalled behind the answer, and both system calls are barriers.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct

_SETUP, _ENTER, _REGISTER = 425, 426, 427  # the same on every architecture
_PARAMETERS = struct.Struct("=IIIIIII12x8IQ8IQ")
_ENTRY = struct.Struct("=BBHiQQIIQ24x")  # opcode, flags, priority, fd, offset, address, length, fsync flags, user data
_ANSWER = struct.Struct("=QiI")  # user data, result, flags
_WORD = struct.Struct("=I")
_OP_FSYNC = 3
_FSYNC_DATASYNC = 1
_ENTER_GETEVENTS = 1
_REGISTER_EVENTFD = 4
_FEATURE_SINGLE_MMAP = 1
_OFFSET_RINGS = 0
_OFFSET_ENTRIES = 0x1000_0000
_DEPTH = 4

assert _PARAMETERS.size == 120
assert _ENTRY.size == 64
assert _ANSWER.size == 16

_syscall = ctypes.PyDLL(None, use_errno=True).syscall  # calls are short: the interpreter's lock is kept
_syscall.argtypes = [ctypes.c_long] * 7
_syscall.restype = ctypes.c_long


class SyncRing:
    """A ring for one fdatasync at a time. ``eventfd`` becomes readable when it is done."""

    def __init__(self) -> None:
        """Raises OSError where the kernel has no io_uring or does not allow it."""
        parameters = ctypes.create_string_buffer(_PARAMETERS.size)
        self._ring_fd = _call(_SETUP, _DEPTH, ctypes.addressof(parameters))
        self.eventfd = -1
        try:
            fields = _PARAMETERS.unpack(parameters.raw)
            entries, answers, features = fields[0], fields[1], fields[5]
            submission, completion = fields[7:15], fields[16:24]
            if not features & _FEATURE_SINGLE_MMAP:
                raise OSError(errno.ENOSYS, "io_uring is too old")
            size = max(submission[6] + entries * _WORD.size, completion[5] + answers * _ANSWER.size)
            self._rings = self._map(size, _OFFSET_RINGS)
            self._entries = self._map(entries * _ENTRY.size, _OFFSET_ENTRIES)
            self._tail_at, self._array_at = submission[1], submission[6]
            self._entry_mask = entries - 1
            self._answer_head_at, self._answer_tail_at, self._answers_at = completion[0], completion[1], completion[5]
            self._answer_mask = answers - 1
            self._submitted = 0
            self.eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            descriptor = ctypes.c_int(self.eventfd)
            _call(_REGISTER, self._ring_fd, _REGISTER_EVENTFD, ctypes.addressof(descriptor), 1)
        except BaseException:
            self.close()
            raise

    def fdatasync(self, fd: int) -> None:
        """Begin. Raises OSError if the kernel did not take it."""
        index = self._submitted & self._entry_mask
        place = index * _ENTRY.size
        _ENTRY.pack_into(self._entries, place, _OP_FSYNC, 0, 0, fd, 0, 0, 0, _FSYNC_DATASYNC, self._submitted)
        _WORD.pack_into(self._rings, self._array_at + index * _WORD.size, index)
        self._submitted += 1
        _WORD.pack_into(self._rings, self._tail_at, self._submitted & 0xFFFF_FFFF)
        taken = _call(_ENTER, self._ring_fd, 1)
        if taken != 1:
            raise OSError(errno.EAGAIN, "the kernel did not take the sync")

    def result(self) -> int | None:
        """0 or a negative error number of what is done; None if it is not. Call when ``eventfd`` is readable."""
        try:
            os.eventfd_read(self.eventfd)
        except BlockingIOError:
            return None
        head = _WORD.unpack_from(self._rings, self._answer_head_at)[0]
        if head == _WORD.unpack_from(self._rings, self._answer_tail_at)[0]:
            return None
        place = self._answers_at + (head & self._answer_mask) * _ANSWER.size
        result: int = _ANSWER.unpack_from(self._rings, place)[1]
        _WORD.pack_into(self._rings, self._answer_head_at, (head + 1) & 0xFFFF_FFFF)
        return result

    def wait(self) -> None:
        """Block until what was begun is done."""
        _call(_ENTER, self._ring_fd, 0, 1, _ENTER_GETEVENTS)

    def close(self) -> None:
        for fd in (self.eventfd, self._ring_fd):
            if fd >= 0:
                os.close(fd)
        self.eventfd = self._ring_fd = -1

    def _map(self, size: int, offset: int) -> mmap.mmap:
        area = mmap.mmap(self._ring_fd, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, offset=offset)
        area.madvise(mmap.MADV_DONTFORK)
        return area


def _call(number: int, *arguments: int) -> int:
    """A system call, begun again when a signal interrupts it. Raises OSError."""
    padded = (*arguments, *(0,) * (6 - len(arguments)))
    while True:
        result = int(_syscall(number, *padded))
        if result >= 0:
            return result
        error = ctypes.get_errno()
        if error != errno.EINTR:
            raise OSError(error, os.strerror(error))
