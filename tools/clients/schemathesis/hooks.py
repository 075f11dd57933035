"""Repairs what the description cannot say.

JSON Schema describes each value by itself. What it has no words for are relations: of two values to each other, of a
time to the clock, of a text to its bytes. Where values that are valid by themselves do not go together, they are put
right here before they are sent; a value that is not valid by itself stays as it is.
"""

import itertools
import re
from datetime import datetime, timedelta, timezone

import schemathesis

TIME = re.compile(r"((?:19[7-9]\d|[2-9]\d{3})-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d{1,9})?(Z|[+-]\d\d:\d\d)")
EARLIEST = datetime(1970, 1, 1, tzinfo=timezone.utc)
LATEST = datetime(9999, 12, 30, tzinfo=timezone.utc)
DAY = timedelta(days=1)
# In the order of `TimeGranularity`; unspecified is by hour.
WIDTHS = [timedelta(hours=1), timedelta(minutes=1), timedelta(hours=1), DAY, 7 * DAY, 28 * DAY]
GRANULARITIES = ["UNSPECIFIED", "MINUTE", "HOUR", "DAY", "WEEK", "MONTH"]
# What the server allows at most: buckets of a series, bytes of a name, characters of a name that surely has no more.
BUCKETS_MAX = 9_990
NAME_BYTES_MAX = 1024
NAME_CHARACTERS = NAME_BYTES_MAX // 4
# Routes of the older system's events.
OLDER = ["/events", "/events/async", "/events/batch", "/batch"]
NUMBERS = itertools.count()


def moment(value):
    """A valid time as a whole second; None: it is none."""
    try:
        if isinstance(value, str) and (found := TIME.fullmatch(value)):
            return datetime.fromisoformat(found[1] + found[2].replace("Z", "+00:00"))
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:
            return EARLIEST + timedelta(seconds=int(value))
    except OverflowError:
        # With its offset, a time just behind the year 9999.
        return LATEST
    except ValueError:
        # The 31st of June.
        pass
    return None


def text(time):
    return time.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def repair_range(values, start, end, longest=None):
    """An end lies behind its start; both, whatever their offsets, from 1970 to 9999."""
    times = [moment(values.get(name)) for name in (start, end)]
    if None in times:
        return
    first, last = sorted(min(max(time, EARLIEST), LATEST) for time in times)
    if first == last:
        last += DAY
    if longest:
        last = min(last, first + longest)
    if [first, last] != times:
        values[start], values[end] = text(first), text(last)


def repair_query(query):
    granularity = str(query.get("granularity", 0)).removeprefix("TIME_GRANULARITY_")
    number = GRANULARITIES.index(granularity) if granularity in GRANULARITIES else granularity
    longest = None
    if "metric" in query and str(number) in map(str, range(len(WIDTHS))):
        # So many buckets have to fit in.
        longest = WIDTHS[int(number)] * BUCKETS_MAX
    repair_range(query, "time_range.start", "time_range.end", longest)
    if query.get("group_by") and query.get("metric"):
        # Only this metric is grouped, and only without filters.
        query["metric"] = "events"
        for name in [name for name in query if name.startswith("filters[")]:
            del query[name]


def repair_event(event):
    written = event.get("timestamp")
    if isinstance(written, str) and written.startswith("0001-01-01"):
        # With its offset it may lie before the first year.
        event["timestamp"] = written.replace("0001-01-01", "0001-01-02", 1)
    time = moment(written)
    if time and not EARLIEST <= time <= datetime.now(timezone.utc) + DAY:
        # Not far ahead of the server's clock; and with its offset it may lie before 1970.
        event["timestamp"] = text(EARLIEST)
    custom = event.get("customEvent")
    metrics = custom.get("metrics") if isinstance(custom, dict) else None
    named = [(event, name) for name in ("userId", "sessionId", "source")]
    if isinstance(metrics, list):
        named += [(metric, "name") for metric in metrics if isinstance(metric, dict)]
    for place, name in named:
        value = place.get(name)
        if isinstance(value, str) and len(value) <= NAME_BYTES_MAX < len(value.encode()):
            place[name] = value[:NAME_CHARACTERS]


def repair_timestamp(values):
    """To JSON Schema 1.0 is a whole number; the server reads digits."""
    time = values.get("timestamp")
    if isinstance(time, float) and time.is_integer():
        values["timestamp"] = int(time)


def repair_older(body):
    """An id that comes again with another content is another message's; and a name has a bound in bytes."""
    events = body.get("events")
    for event in [body, *(events if isinstance(events, list) else [])]:
        if not isinstance(event, dict):
            continue
        for name in ("id", "user_id", "event_type", "source"):
            value = event.get(name)
            if isinstance(value, str) and len(value) <= NAME_BYTES_MAX < len(value.encode()):
                event[name] = value[:NAME_CHARACTERS]
        repair_timestamp(event)
        written = event.get("id")
        if isinstance(written, str) and written:
            number = f"-{next(NUMBERS)}"
            if len(written.encode()) + len(number) <= NAME_BYTES_MAX:
                event["id"] = written + number


def repair_body(body):
    if isinstance(body.get("timeRange"), dict):
        repair_range(body["timeRange"], "start", "end")
    events = body.get("events")
    for event in [body, body.get("event"), *(events if isinstance(events, list) else [])]:
        if isinstance(event, dict):
            repair_event(event)


@schemathesis.hook
def filter_query(context, query):
    # What is empty is not on the wire: the tool would have the server reject what it never got.
    return not query or not any(value in ([], {}) for value in query.values())


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.query:
        repair_query(case.query)
    if isinstance(case.body, dict):
        repair_body(case.body)
        if case.path in OLDER:
            repair_older(case.body)
        if case.path == "/enqueue":
            repair_timestamp(case.body)
            if case.body.get("id") and case.headers:
                # The key is the id, and a message has one.
                case.headers.pop("Idempotency-Key", None)
