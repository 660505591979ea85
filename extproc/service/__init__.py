"""The process that Envoy talks to: all that knows gRPC, sockets, processes and signals."""
