"""What runs where: `prefect.yaml`, the server's settings, and `python -m deployments.ui`. No logic of the chain."""
