"""What is measured: Fashion-MNIST, the networks, and the training core."""
