"""Talks to a Tidegate with grpcio and prints what it saw as one JSON object.

The message classes come from the server itself, by reflection: nothing is generated, so nothing can drift.

    python grpc_client.py 127.0.0.1:50051
"""

import json
import sys

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

TIMEOUT_S = 30
STREAMED = 2_000


def call_error(call):
    """The code and text of a call that must fail."""
    try:
        call()
    except grpc.RpcError as error:
        return {"code": error.code().name, "details": error.details()}
    return {"code": "OK", "details": ""}


def metadata_of(call):
    """Initial metadata of a finished call, as a dictionary."""
    return {key: value for key, value in call.initial_metadata() if isinstance(value, str)}


def observe(target):
    seen = {}
    with grpc.insecure_channel(target) as channel:
        grpc.channel_ready_future(channel).result(timeout=TIMEOUT_S)

        database = ProtoReflectionDescriptorDatabase(channel)
        seen["services"] = sorted(database.get_services())
        pool = DescriptorPool(database)
        service = pool.FindServiceByName("diplom.v1.IngestService")
        methods = {method.name: method for method in service.methods}
        Request = GetMessageClass(methods["Ingest"].input_type)
        Response = GetMessageClass(methods["Ingest"].output_type)

        def stub(kind, name):
            return kind(
                f"/{service.full_name}/{name}",
                request_serializer=Request.SerializeToString,
                response_deserializer=Response.FromString,
            )

        unary = stub(channel.unary_unary, "Ingest")
        stream = stub(channel.stream_unary, "IngestStream")

        request = Request(source="grpcio", data=bytes(range(256)), metadata={"ключ": "значение"})
        answer, call = unary.with_call(request, timeout=TIMEOUT_S)
        seen["unary"] = {
            "message_id": answer.message_id,
            "status": answer.status,
            "metadata": metadata_of(call),
        }

        answer, call = unary.with_call(
            request, timeout=TIMEOUT_S, metadata=[("tidegate-ack", "queued"), ("trace-bin", b"\x00\xff")]
        )
        seen["asked_for_queued"] = {"status": answer.status, "metadata": metadata_of(call)}
        seen["asked_for_durable"] = call_error(
            lambda: unary(request, timeout=TIMEOUT_S, metadata=[("tidegate-ack", "durable")])
        )

        # Shrinks to a third, well within the ratio of 100 that a bomb would exceed.
        numbers = " ".join(str(number) for number in range(20_000))
        compressed = Request(source="grpcio", data=numbers.encode())
        answer = unary(compressed, timeout=TIMEOUT_S, compression=grpc.Compression.Gzip)
        seen["gzip"] = {"status": answer.status}
        answer = stream(
            (compressed for _ in range(10)), timeout=TIMEOUT_S, compression=grpc.Compression.Gzip
        )
        seen["gzip_stream"] = {"message_id": answer.message_id, "status": answer.status}

        answer, call = stream.with_call((request for _ in range(STREAMED)), timeout=TIMEOUT_S)
        seen["stream"] = {
            "message_id": answer.message_id,
            "status": answer.status,
            "metadata": metadata_of(call),
        }
        answer = stream(iter(()), timeout=TIMEOUT_S)
        seen["empty_stream"] = {"message_id": answer.message_id, "status": answer.status}

        health = health_pb2_grpc.HealthStub(channel)
        seen["health"] = {
            name: health_pb2.HealthCheckResponse.ServingStatus.Name(
                health.Check(health_pb2.HealthCheckRequest(service=name), timeout=TIMEOUT_S).status
            )
            for name in ("", "diplom.v1.IngestService", "IngestService")
        }
        seen["health_of_unknown"] = call_error(
            lambda: health.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=TIMEOUT_S)
        )
        unknown = channel.unary_unary(
            f"/{service.full_name}/Nothing",
            request_serializer=Request.SerializeToString,
            response_deserializer=Response.FromString,
        )
        seen["unknown_method"] = call_error(lambda: unknown(request, timeout=TIMEOUT_S))
    # Two unary calls, one compressed, and three streams.
    seen["accepted"] = 3 + 10 + STREAMED
    return seen


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(json.dumps(observe(sys.argv[1]), ensure_ascii=False))
