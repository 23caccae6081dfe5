"""The application on each device: a Flower ClientApp and the command `amgt-client`."""
