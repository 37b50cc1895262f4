"""JSON-RPC 2.0 over TCP: a request, or a batch of them, in each line; the answer in a line.

Settings: `longest`, bytes of a line (65536); `patience`, seconds in which a line must be complete (60); `seconds` that
a call may take (10).
"""

import calendar
import datetime
import difflib
import inspect
import json
import math
import signal
import statistics
import sys
import time
import traceback

import preforkd

# --- the methods --------------------------------------------------------------------------------------------------


class Invalid(Exception):
    """Parameters that a method cannot use."""


class TakesTooLong(Exception):
    """From the timer of a call."""


def _numbers(values, least=1):
    if not isinstance(values, list) or any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in values):
        raise Invalid("numbers: a list of numbers is expected")
    if len(values) < least:
        raise Invalid(f"numbers: at least {least}")
    return values


def _whole(name, value):
    if isinstance(value, bool) or not isinstance(value, int):
        raise Invalid(name + ": a whole number is expected")
    return value


def _date(name, text):
    try:
        return datetime.date.fromisoformat(text)
    except (TypeError, ValueError):
        raise Invalid(name + ": a date as 2024-02-29 is expected") from None


def _lines(name, text):
    if not isinstance(text, str):
        raise Invalid(name + ": a text is expected")
    return text.splitlines()


def mean(numbers):
    return statistics.mean(_numbers(numbers))


def median(numbers):
    return statistics.median(_numbers(numbers))


def summary(numbers):
    """All at once; the deviation is that of a sample."""
    _numbers(numbers, 2)
    return {
        "count": len(numbers),
        "sum": math.fsum(numbers),
        "min": min(numbers),
        "max": max(numbers),
        "mean": statistics.mean(numbers),
        "median": statistics.median(numbers),
        "deviation": statistics.stdev(numbers),
        "quartiles": statistics.quantiles(numbers, method="inclusive"),
    }


def add_to_date(date, days=0, months=0, years=0):
    """Months and years first; a day that the month does not have becomes its last one."""
    begin = _date("date", date)
    months = begin.month - 1 + _whole("months", months) + 12 * _whole("years", years)
    year, month = begin.year + months // 12, months % 12 + 1
    if not datetime.MINYEAR <= year <= datetime.MAXYEAR:
        raise Invalid("it leaves the calendar")
    day = min(begin.day, calendar.monthrange(year, month)[1])
    return str(datetime.date(year, month, day) + datetime.timedelta(_whole("days", days)))


def days_between(begin, end):
    return (_date("end", end) - _date("begin", begin)).days


def weekday(date):
    return calendar.day_name[_date("date", date).weekday()]


def diff(old, new, context=3):
    """From one text to the other, as `diff -u` has it: a list of lines."""
    context = max(0, _whole("context", context))
    return list(difflib.unified_diff(_lines("old", old), _lines("new", new), "old", "new", n=context, lineterm=""))


def methods():
    """What there is, with its parameters."""
    return {name: str(inspect.signature(function)) for name, function in METHODS.items()}


METHODS = {f.__name__: f for f in (mean, median, summary, add_to_date, days_between, weekday, diff, methods)}

# --- the protocol -------------------------------------------------------------------------------------------------

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
NO_METHOD = -32601
INVALID_PARAMS = -32602
INTERNAL = -32603
TOO_LONG = -32000
WORDS = {
    PARSE_ERROR: "Parse error",
    INVALID_REQUEST: "Invalid Request",
    NO_METHOD: "Method not found",
    INVALID_PARAMS: "Invalid params",
    INTERNAL: "Internal error",
    TOO_LONG: "Takes too long",
}


def failure(code, identity=None, why=None):
    error = {"code": code, "message": WORDS[code]}
    if why:
        error["data"] = why
    return {"jsonrpc": "2.0", "error": error, "id": identity}


def _is_identity(value):
    return value is None or isinstance(value, (str, int, float)) and not isinstance(value, bool)


def _finite(text):
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number too large")
    return number


def _no_constant(text):
    raise ValueError(text + " is no JSON")


def call(method, params, seconds):
    """The result of a method, which is stopped when it takes too long."""
    function = METHODS[method]
    positional, named = (params, {}) if isinstance(params, list) else ([], params)
    try:
        inspect.signature(function).bind(*positional, **named)
    except TypeError as error:
        raise Invalid(str(error)) from None
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        result = function(*positional, **named)
        json.dumps(result, allow_nan=False)
        return result
    except (OverflowError, ValueError) as error:  # the numbers are right, but too large to count with
        raise Invalid(str(error)) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def answer_one(request, seconds):
    """The response to one request; None to a notification, whatever becomes of it."""
    if not isinstance(request, dict):
        return failure(INVALID_REQUEST)
    identity = request.get("id")
    if not _is_identity(identity):
        return failure(INVALID_REQUEST, None, "id: a text or a number is expected")
    method, params = request.get("method"), request.get("params", [])
    if request.get("jsonrpc") != "2.0" or not isinstance(method, str) or not isinstance(params, (list, dict)):
        return failure(INVALID_REQUEST, identity)
    try:
        if method not in METHODS:
            response = failure(NO_METHOD, identity)
        else:
            response = {"jsonrpc": "2.0", "result": call(method, params, seconds), "id": identity}
    except Invalid as error:
        response = failure(INVALID_PARAMS, identity, str(error))
    except TakesTooLong:
        response = failure(TOO_LONG, identity, f"more than {seconds} s")
    except Exception:
        traceback.print_exc()
        response = failure(INTERNAL, identity)
    return response if "id" in request else None


def answer(line, note, seconds):
    """The answer to a line: an object, a list, or None when nothing is to be said."""
    try:
        request = json.loads(line.decode("utf-8"), parse_float=_finite, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        return failure(PARSE_ERROR, None, str(error))
    batch = request if isinstance(request, list) else [request]
    if not batch:
        return failure(INVALID_REQUEST, None, "an empty batch")
    responses = []
    for number, one in enumerate(batch, 1):
        where = f"{number}/{len(batch)} " if request is batch else ""
        note(where + str(one.get("method") if isinstance(one, dict) else "?"))
        responses.append(answer_one(one, seconds))
    if request is not batch:
        return responses[0]
    return [response for response in responses if response is not None] or None


# --- the connection -----------------------------------------------------------------------------------------------


class TooLong(Exception):
    """A line, which has been skipped."""


class Lines:
    """What a client sends, line by line: each bounded, and each with a deadline."""

    def __init__(self, socket, longest, patience):
        self.socket, self.longest, self.patience = socket, longest, patience
        self.buffer = bytearray()
        self.has_ended = False

    def read(self):
        """The next line without its end; None after the last one. TimeoutError; TooLong."""
        deadline = time.monotonic() + self.patience
        is_too_long = False
        searched = 0
        while (end := self.buffer.find(b"\n", searched)) < 0 and not self.has_ended:
            if len(self.buffer) > self.longest:
                is_too_long = True
                self.buffer.clear()
            searched = len(self.buffer)
            self._receive(deadline - time.monotonic())
        if end < 0:
            end = len(self.buffer)
            if end == 0 and not is_too_long:
                return None
        line = bytes(self.buffer[:end])
        del self.buffer[: end + 1]
        if is_too_long or len(line) > self.longest:
            raise TooLong
        return line

    def _receive(self, seconds):
        if seconds <= 0:
            raise TimeoutError
        self.socket.settimeout(seconds)
        data = self.socket.recv(65536)
        self.buffer += data
        self.has_ended = not data


def serve(connection):
    settings = preforkd.settings
    longest, patience, seconds = (settings.get(*k) for k in (("longest", 65536), ("patience", 60), ("seconds", 10)))
    lines = Lines(connection.socket, longest, patience)
    while True:
        try:
            line = lines.read()
        except TooLong:
            response = failure(INVALID_REQUEST, None, f"longer than {longest} bytes")
        except TimeoutError:
            return
        else:
            if line is None:
                return
            if not line.strip():
                continue
            response = answer(line, connection.note, seconds)
        if response is not None:
            connection.socket.settimeout(patience)
            connection.sendall(json.dumps(response, allow_nan=False).encode() + b"\n")


def _ring(number, frame):
    raise TakesTooLong


def main():
    sys.set_int_max_str_digits(4300)  # whatever the environment says: longer numbers take too long to read
    signal.signal(signal.SIGALRM, _ring)
    preforkd.serve(serve)


if __name__ == "__main__":
    main()
