"""The process that Envoy talks to: transports, workers, health. Everything that knows gRPC, sockets and signals."""
