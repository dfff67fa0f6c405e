"""REST door: FastAPI over the same core as gRPC."""
