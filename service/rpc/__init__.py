"""gRPC door: the same core, the same fields."""
