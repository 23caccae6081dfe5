"""The application that runs rounds: a Flower ServerApp and the command `amgt-server`."""
