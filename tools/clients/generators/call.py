"""One call of each kind with the client that openapi-python-client has made: python call.py FOLDER URL."""

import sys

sys.path.insert(0, sys.argv[1])

from generated import Client  # noqa: E402
from generated.api.default import get_analytics_summary, ingest, post_events  # noqa: E402
from generated.models import EventAlone, IngestMessage  # noqa: E402

client = Client(base_url=sys.argv[2])
event = EventAlone.from_dict({"userId": "u-1", "eventType": "EVENT_TYPE_USER", "source": "generated"})
taken = post_events.sync(client=client, body=event)
message = ingest.sync(client=client, body=IngestMessage(source="generated", data="hello"))
summary = get_analytics_summary.sync(client=client)
print(taken.success, message.status, type(summary).__name__)
