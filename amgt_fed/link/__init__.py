"""The AMGT link: our gRPC service behind a Flower Grid."""
