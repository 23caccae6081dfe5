"""Generated from protos/amgt_fed/link/v1."""
