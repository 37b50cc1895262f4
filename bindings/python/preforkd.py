"""Connections from preforkd, for a program that it runs: `serve = [ "python3", "app.py" ];`.

    import preforkd

    for connection in preforkd.connections():
        for line in connection.makefile("rb"):
            connection.sendall(b"you said: " + line)

or, where an exception shall end its connection and not the program:

    def answer(connection):
        ...

    preforkd.serve(answer)

The process serves one connection at a time, for as long as it takes; preforkd runs as many such processes as there
are connections. All of this module is for one thread, always the same. It can be imported anywhere, so that a
program that uses it can be tested; outside of preforkd, connections() raises OSError, `pool` is None, and `settings`
is {}.

    preforkd.pool       the pool's name
    preforkd.settings   its `settings`, as a dict
"""

import ctypes
import errno
import json
import os
import socket
import sys
import traceback

__all__ = ["Connection", "after_fork", "connections", "log", "recycle", "serve"]


class _Connection(ctypes.Structure):
    """struct preforkd_connection, with room for what a later version adds at its end."""

    _fields_ = [
        ("size", ctypes.c_uint32),
        ("fd", ctypes.c_int),
        ("peer", ctypes.c_void_p),
        ("peer_length", ctypes.c_uint32),
        ("number", ctypes.c_uint64),
        ("local", ctypes.c_void_p),
        ("local_length", ctypes.c_uint32),
        ("later", ctypes.c_char * 256),
    ]


_Function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_filled = _Connection()  # by each preforkd_accept
_filled_in_place = ctypes.byref(_filled)
_family_at = ctypes.c_ushort.from_address
_in_hand = None  # the Connection that is not over
_loaded = None
_after_fork = []  # what is called in each worker


def _library():
    """libpreforkd, with the types of its functions; OSError without it."""
    global _loaded
    if _loaded is None:
        path = os.environ.get("PREFORKD_LIBRARY", "libpreforkd.so.1")
        waiting = ctypes.CDLL(path, use_errno=True)  # meanwhile other threads run
        library = ctypes.PyDLL(path)
        for whose, name, result, arguments in (
            (waiting, "accept", ctypes.c_int, [ctypes.POINTER(_Connection)]),
            (library, "done", None, [ctypes.c_int]),
            (library, "note", None, [ctypes.c_char_p]),
            (library, "extend", None, [ctypes.c_uint32]),
            (library, "recycle", None, []),
            (library, "log", None, [ctypes.c_int, ctypes.c_char_p]),
            (library, "peer", ctypes.c_char_p, []),
            (library, "pool", ctypes.c_char_p, []),
            (library, "settings", ctypes.c_char_p, []),
            (library, "error", ctypes.c_char_p, []),
            (library, "after_fork", ctypes.c_int, [_Function, ctypes.c_void_p]),
        ):
            try:
                function = whose["preforkd_" + name]
            except AttributeError:  # of a version before
                continue
            function.restype, function.argtypes = result, arguments
            setattr(library, name, function)
        _loaded = library
    return _loaded


def _text(text, encoding="utf-8"):
    return str(text).encode(encoding, "replace").replace(b"\0", b"?")


def _address(where, length):
    """As socket.getpeername has it, but for IPv6: (host, port) there too."""
    raw = ctypes.string_at(where, length)
    family = _family_at(where).value
    if family == socket.AF_INET:
        return socket.inet_ntop(family, raw[4:8]), int.from_bytes(raw[2:4], "big")
    if family == socket.AF_INET6:
        return socket.inet_ntop(family, raw[8:24]), int.from_bytes(raw[2:4], "big")
    path = raw[2:]
    if path.startswith(b"\0"):  # an abstract name
        return "@" + os.fsdecode(path[1:])
    return os.fsdecode(path.split(b"\0")[0])


class Connection:
    """One accepted connection.

    socket: a blocking socket.socket. Leave it open: it is closed once the connection is counted.
    number: 1 for this process's first connection, and so on.
    failed: set it to True, or call fail(), and the connection counts as failed; else as served.

    It is over when the next one is asked for, or at the end of a `with connection:` block, which counts it as failed
    if an exception leaves the block.
    """

    __slots__ = ("socket", "number", "failed", "_peer", "_local", "_files")

    def __init__(self):
        # The family is given, so that the kernel is not asked for it.
        self.socket = socket.socket(_family_at(_filled.peer).value, socket.SOCK_STREAM, 0, _filled.fd)
        self.number = _filled.number
        self.failed = False
        self._peer = self._local = self._files = None

    def recv(self, size):
        """At most so many bytes; b"" at the end of the stream."""
        return self.socket.recv(size)

    def sendall(self, data):
        """Writes all of it."""
        self.socket.sendall(data)

    def makefile(self, *arguments, **named):
        """As socket.makefile; what it has buffered is written when the connection is over."""
        file = self.socket.makefile(*arguments, **named)
        self._files = (self._files or []) + [file]
        return file

    @property
    def peer(self):
        """The client's address: (host, port), or the path of a Unix socket, "" without one."""
        if self._peer is None:
            self._must_be_in_hand("peer")
            self._peer = _address(_filled.peer, _filled.peer_length)
        return self._peer

    @property
    def local(self):
        """The address that the client connected to, as `peer`."""
        if self._local is None:
            self._must_be_in_hand("local")
            self._local = _address(_filled.local, _filled.local_length)
        return self._local

    def note(self, text):
        """What is being done, for `preforkctl workers`: up to 127 characters of printable ASCII."""
        if self is _in_hand:
            _loaded.note(_text(text, "ascii"))

    def extend(self, seconds):
        """It may take so long from now, whatever `timeouts.connection` says."""
        if self is _in_hand:
            _loaded.extend(int(max(0, min(seconds * 1000, 0xFFFFFFFF))))

    def fail(self):
        """Count it as failed."""
        self.failed = True

    def __enter__(self):
        return self

    def __exit__(self, kind, error, where):
        if kind is not None:
            self.failed = True
        self._end()

    def _must_be_in_hand(self, what):
        if self is not _in_hand:
            raise ValueError(what + ": the connection is over")

    def _end(self):
        global _in_hand
        if self is not _in_hand:
            return
        if self._files:
            self._close_files()
        _in_hand = None
        # Counted before it is closed: a client that has seen the end finds it counted. And closed whatever still refers
        # to it: socket.close() waits for files that were made of it.
        _loaded.done(not self.failed)
        fd = self.socket.detach()
        if fd >= 0:
            try:
                os.close(fd)
            except OSError:  # by its number the program has closed it already
                pass

    def _close_files(self):
        for file in self._files:
            try:
                file.close()
            except Exception as error:  # the rest of its buffer could not be written, for one
                self.failed = True
                log(f"serve {_peer_text()}: {error}", 3)


def _each(accept):
    global _in_hand
    while True:
        if _in_hand is not None:
            _in_hand._end()
        got = accept(_filled_in_place)
        if got < 0:
            raise OSError(ctypes.get_errno(), (_loaded.error() or b"").decode("utf-8", "replace"))
        if got == 0:
            return
        _in_hand = Connection()
        yield _in_hand


def connections():
    """Each connection in turn, until this process is not needed any more: then end it.

    When the next one is asked for, the one before is counted and closed. An exception that leaves the loop ends the
    program, as Python does: that is a crash to preforkd, which starts another one. After a `break` the connection
    stays as it is until connections() is gone through again. OSError: there are none to be had.
    """
    try:
        accept = _library().accept
    except OSError as error:
        raise OSError(errno.EPERM, f"preforkd has not started this process ({error})") from None
    return _each(accept)


def serve(function):
    """Calls function(connection) for each connection, until this process is not needed any more.

    An exception that leaves the function is logged, and its connection closed and counted as failed; then it goes on.
    SystemExit and KeyboardInterrupt leave serve().
    """
    for connection in connections():
        try:
            function(connection)
        except Exception as error:
            connection.failed = True
            what = " ".join("".join(traceback.format_exception_only(type(error), error)).split())
            log(f"serve {_peer_text() or 'a connection'}: {what}", 3)
            sys.stderr.write(traceback.format_exc())
            sys.stderr.flush()


def log(text, level=6):
    """One line for preforkd's log; the level is syslog's: 3 error, 4 warning, 6 info, 7 debug."""
    try:
        library = _library()
    except OSError:
        print(text, file=sys.stderr)
    else:
        library.log(level, _text(text))


def recycle():
    """This process is worn out: it leaves after the connection in hand, and is replaced."""
    try:
        _library().recycle()
    except OSError:
        pass


def after_fork(function):
    """Calls function() in each worker before its first connection; can be used as a decorator.

    With `preload = true` preforkd starts the program once, and forks it where it waits for its first connection: what
    workers must not share (a connection to a database, random numbers) is made here. Without `preload` it is called all the
    same. An exception that leaves the function ends the worker before it has served anybody. For the time before the first
    connection is asked for.
    """
    _after_fork.append(function)
    if len(_after_fork) == 1:
        try:
            library = _library()
        except OSError:  # not started by preforkd
            return function
        library.after_fork(_call_after_fork, None)
    return function


@_Function
def _call_after_fork(_):
    try:
        for function in _after_fork:
            function()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _peer_text():
    return (_loaded.peer() or b"").decode("utf-8", "replace")


def _told(name):
    try:
        told = getattr(_library(), name)()
    except OSError:
        return None
    return told and told.decode("utf-8")


def __getattr__(name):
    """`pool` and `settings`, when they are asked for first."""
    if name == "pool":
        value = _told("pool")
    elif name == "settings":
        value = json.loads(_told("settings") or "{}")
    else:
        raise AttributeError(f"module 'preforkd' has no attribute {name!r}")
    globals()[name] = value
    return value
