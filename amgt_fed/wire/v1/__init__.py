"""Generated from protos/amgt_fed/wire/v1."""
