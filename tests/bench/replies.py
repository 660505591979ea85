"""What the no-op servers answer: the empty reply of each kind, as bytes.

The reply to request headers carries the `mode_override` of the recorder (the request's body in one piece, everything
else as configured), so that each server under test exchanges the same messages with Envoy: four for a short POST.
`noop_go/main.go` has the same table.
"""

from __future__ import annotations

# ProcessingResponse field 9: a ProcessingMode with every field named, body modes BUFFERED and STREAMED, the rest SEND.
MODE_OVERRIDE = b"\x4a\x0c\x08\x01\x10\x01\x18\x02\x20\x01\x28\x01\x30\x01"

# By the first byte of a ProcessingRequest, the tag of its oneof: ProcessingResponse's fields 1 to 6, each empty.
REPLIES = {
    0x12: b"\x0a\x00" + MODE_OVERRIDE,  # request_headers
    0x1A: b"\x12\x00",  # response_headers
    0x22: b"\x1a\x00",  # request_body
    0x2A: b"\x22\x00",  # response_body
    0x32: b"\x2a\x00",  # request_trailers
    0x3A: b"\x32\x00",  # response_trailers
}

PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
SERVING = b"\x08\x01"
