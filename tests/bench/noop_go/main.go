// A no-op ext_proc server in Go: the yardstick that the recorder's cost is compared with.
//
// It answers each message with the empty reply of its kind and decodes nothing but the first tag, as the two
// no-op servers in Python beside it do. The reply to request headers asks for the request body in one piece, as
// the recorder's does, so that all of them exchange the same messages with Envoy.
package main

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// The oneof field of a ProcessingRequest, by the message's first byte, to the bytes of its ProcessingResponse.
var replies = map[byte][]byte{
	0x12: []byte("\x0a\x00\x4a\x0c\x08\x01\x10\x01\x18\x02\x20\x01\x28\x01\x30\x01"), // request_headers, mode_override
	0x1a: []byte("\x12\x00"),                                                         // response_headers
	0x22: []byte("\x1a\x00"),                                                         // request_body
	0x2a: []byte("\x22\x00"),                                                         // response_body
	0x32: []byte("\x2a\x00"),                                                         // request_trailers
	0x3a: []byte("\x32\x00"),                                                         // response_trailers
}

var serving = []byte("\x08\x01") // grpc.health.v1.HealthCheckResponse

// raw hands messages over as the bytes they are.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

func process(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	health := method == "/grpc.health.v1.Health/Check"
	var message []byte
	for {
		if err := stream.RecvMsg(&message); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if health {
			return stream.SendMsg(serving)
		}
		reply, known := replies[message[0]]
		if !known {
			return status.Errorf(codes.InvalidArgument, "message begins with %#x", message[0])
		}
		if err := stream.SendMsg(reply); err != nil {
			return err
		}
	}
}

func main() {
	listener, err := net.Listen("unix", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer(grpc.ForceServerCodecV2(raw{}), grpc.UnknownServiceHandler(process))
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-stop
		server.Stop()
	}()
	fmt.Println("ready", os.Args[1])
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
}
