"""Four ways to run the same two apps: local, grpc, ray, flower."""
