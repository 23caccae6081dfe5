"""AMGT-Fed: federated and edge training with the AMGT optimizer, compressed updates and a certificate."""
